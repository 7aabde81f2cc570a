// The slot adapter_ranking, ABI 1: Scores announced adapters for this machine: which are listed, and fetched, first.
// docs/slots.md says what the columns mean and what every implementation keeps.

// -- begin of what synapsectl made from the slot --
const ABI: i64 = 1;
let room: usize = 0;
let size: usize = 0;

/** Room for a block of so many bytes: at the end of memory, which grows where it is too small. */
export function reserve(bytes: usize): usize {
  if (bytes > size) {
    const end = <usize>memory.size() << 16;
    if (room + size != end) {
      room = end;
      size = 0;
    }
    const pages = (bytes - size + 65535) >> 16;
    if (memory.grow(<i32>pages) < 0) return 0;
    size += pages << 16;
  }
  return room;
}

/** Row `at` of a column. */
// @ts-ignore: decorator
@inline
function get(column: usize, at: i32): i64 {
  return load<i64>(column + (<usize>at << 3));
}

// @ts-ignore: decorator
@inline
function put(column: usize, at: i32, value: i64): void {
  store<i64>(column + (<usize>at << 3), value);
}

/** bytes: that the owner has left of the quota */
let free: i64 = 0;
/** bytes: that may still be held for others */
let spare: i64 = 0;
/** count: copies that each adapter should have in the network */
let wanted: i64 = 0;
/** all adapters that are announced */
let adapters_rows: i32 = 0;
/** Where it begins. thousandths: of its base model's bytes that are here */
let adapters_base: usize = 0;
/** Where it begins. 0 or 1: whether the base is here because the owner wants it */
let adapters_owned: usize = 0;
/** Where it begins. bytes: of the adapter's file */
let adapters_bytes: usize = 0;
/** Where it begins. count: of its factors */
let adapters_rank: usize = 0;
/** Where it begins. count: alive that announce it, this daemon too */
let adapters_holders: usize = 0;
/** Where it begins. points: of its author on the ledger; until its manifest is here, of who announces it and has most */
let adapters_reputation: usize = 0;
/** Where it begins. s: since the oldest announcement of it that is in force */
let adapters_age: usize = 0;
/** Where it begins. 0 or 1: whether all of it is here */
let adapters_held: usize = 0;
/** Where it begins. 0 or 1: whether this daemon announces it */
let adapters_own: usize = 0;
/** Where it begins. points: the higher, the earlier it is taken */
let answer_score: usize = 0;

/** Fills the answer in; 0 says that it is there. */
export function run(block: usize, bytes: i32): i32 {
  if (load<i64>(block) != ABI) return 1;
  free = load<i64>(block, 8);
  spare = load<i64>(block, 16);
  wanted = load<i64>(block, 24);
  adapters_rows = <i32>load<i64>(block, 32);
  adapters_base = block + 8 * <usize>(5);
  adapters_owned = block + 8 * <usize>(5 + adapters_rows);
  adapters_bytes = block + 8 * <usize>(5 + 2 * adapters_rows);
  adapters_rank = block + 8 * <usize>(5 + 3 * adapters_rows);
  adapters_holders = block + 8 * <usize>(5 + 4 * adapters_rows);
  adapters_reputation = block + 8 * <usize>(5 + 5 * adapters_rows);
  adapters_age = block + 8 * <usize>(5 + 6 * adapters_rows);
  adapters_held = block + 8 * <usize>(5 + 7 * adapters_rows);
  adapters_own = block + 8 * <usize>(5 + 8 * adapters_rows);
  answer_score = block + 8 * <usize>(5 + 9 * adapters_rows);
  answer();
  return 0;
}
// -- end of what synapsectl made from the slot --

const BASE: i64 = 350000;
const OWNED: i64 = 100000;
const KNOWN: i64 = 12000;
const SHARED: i64 = 20000;
const NEW: i64 = 80000;
const LIGHT: i64 = 80000;
const DEEP: i64 = 3000;
const MOST_DIGITS: i64 = 16;
const MOST_SHARED: i64 = 8;
const MILLE: i64 = 1000;
const MONTH: i64 = 2592000;
const SMALL: i64 = 67108864;

// @ts-ignore: decorator
@inline
function digits(value: i64): i64 {
  return 64 - clz(value);
}

function score(at: i32): i64 {
  const base = get(adapters_base, at);
  const bytes = get(adapters_bytes, at);
  let points = (BASE * base) / MILLE + OWNED * get(adapters_owned, at);
  points += KNOWN * min(digits(get(adapters_reputation, at)), MOST_DIGITS);
  points += SHARED * min(get(adapters_holders, at), MOST_SHARED);
  points += (NEW * MONTH) / (MONTH + get(adapters_age, at));
  points += (LIGHT * SMALL) / (SMALL + bytes);
  points += DEEP * digits(get(adapters_rank, at));
  // An adapter whose base is not here, or that there is no room for, is listed far below.
  if (base == 0) points /= 4;
  if (get(adapters_held, at) == 0 && bytes > free) points /= 8;
  return points;
}

function answer(): void {
  for (let at = 0; at < adapters_rows; at++) {
    put(answer_score, at, score(at));
  }
}
