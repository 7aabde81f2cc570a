// The slot eviction, ABI 1: Says what of that which is held for others goes first, where the owner needs the room.
// docs/slots.md says what the columns mean and what every implementation keeps.

// -- begin of what synapsectl made from the slot --
typedef long long i64;
typedef unsigned long long u64;
typedef unsigned u32;

static u32 room, size;

// Room for a block of so many bytes: at the end of memory, which grows where it is too small.
__attribute__((export_name("reserve"))) u32 reserve(u32 bytes) {
    if (bytes > size) {
        u32 end = (u32)__builtin_wasm_memory_size(0) << 16;
        if (room + size != end) {
            room = end;
            size = 0;
        }
        u32 pages = (bytes - size + 65535) >> 16;
        if (__builtin_wasm_memory_grow(0, pages) == (__SIZE_TYPE__)-1) return 0;
        size += pages << 16;
    }
    return room;
}

enum { ABI = 1 };

// bytes: that are to be freed
static i64 need;
// count: copies that each tile should have in the network
static i64 wanted;
// bytes: of the store, by everything
static i64 used;
// bytes: that the store may have
static i64 quota;
// all that could go
static u32 candidates_rows;
// 0 or 1: 0: tiles held as a copy for others; 1: headers watched
static const i64 *candidates_kind;
// number: the same for candidates that are of one model
static const i64 *candidates_model;
// bytes: that go with it
static const i64 *candidates_bytes;
// count: proven ones elsewhere, of its rarest tile; some holders are enough to prove
static const i64 *candidates_copies;
// count: alive elsewhere that announce all of it
static const i64 *candidates_holders;
// bytes: of it that others were given since it is here
static const i64 *candidates_served;
// s: since others were last given some of it, or it came
static const i64 *candidates_idle;
// s: since it came
static const i64 *candidates_age;
// bytes/s: that its holders gave us, added up; 0: not known
static const i64 *candidates_rate;
// : of keeping it: the least goes first
static i64 *answer_worth;

static void answer(void);

// Fills the answer in; 0 says that it is there.
__attribute__((export_name("run"))) int run(i64 *block, u32 bytes) {
    (void)bytes;
    if (block[0] != ABI) return 1;
    need = block[1];
    wanted = block[2];
    used = block[3];
    quota = block[4];
    candidates_rows = (u32)block[5];
    candidates_kind = block + 6;
    candidates_model = block + 6 + candidates_rows;
    candidates_bytes = block + 6 + 2 * candidates_rows;
    candidates_copies = block + 6 + 3 * candidates_rows;
    candidates_holders = block + 6 + 4 * candidates_rows;
    candidates_served = block + 6 + 5 * candidates_rows;
    candidates_idle = block + 6 + 6 * candidates_rows;
    candidates_age = block + 6 + 7 * candidates_rows;
    candidates_rate = block + 6 + 8 * candidates_rows;
    answer_worth = block + 6 + 9 * candidates_rows;
    answer();
    return 0;
}
// -- end of what synapsectl made from the slot --

enum { HEADERS = 1, SCARCE = 2, TIER_BITS = 40, HOUR = 3600, DAY = 86400, SLOWEST = 1 << 16 };
static const i64 MOST_TURNS = 1 << 20;

static i64 least(i64 a, i64 b) { return a < b ? a : b; }
static i64 most(i64 a, i64 b) { return a > b ? a : b; }

// Its tier, and in it how often others would miss it.
static i64 worth(u32 at) {
    i64 lack = wanted - candidates_copies[at], tier = 0, spare = 0;
    if (candidates_kind[at] == HEADERS) {
        tier = HEADERS;
    } else {
        if (lack > 0) tier = SCARCE + lack;
        spare = most(0, -lack);
    }
    i64 turns = least(candidates_served[at] / most(1, candidates_bytes[at] >> 10), MOST_TURNS);
    i64 asked = turns * DAY / (candidates_age[at] + HOUR) * DAY / (candidates_idle[at] + DAY);
    i64 slow = (1 << 26) / most(candidates_rate[at], SLOWEST);
    return (tier << TIER_BITS) + 64 * (1 + asked) / (1 + spare) + slow;
}

static void answer(void) {
    for (u32 at = 0; at < candidates_rows; at++) {
        answer_worth[at] = worth(at);
    }
}
