// The slot peer_scoring, ABI 1: Scores everybody in the peer book: whom to stay connected to, and whom to gossip with.
// docs/slots.md says what the columns mean and what every implementation keeps.

#![no_std]

// -- begin of what synapsectl made from the slot --
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! { core::arch::wasm32::unreachable() }

static mut ROOM: usize = 0;
static mut SIZE: usize = 0;

/// Room for a block of so many bytes: at the end of memory, which grows where it is too small.
#[no_mangle]
pub extern "C" fn reserve(bytes: usize) -> usize {
    unsafe {
        if bytes > SIZE {
            let end = core::arch::wasm32::memory_size(0) << 16;
            if ROOM + SIZE != end { ROOM = end; SIZE = 0; }
            let pages = (bytes - SIZE + 65535) >> 16;
            if core::arch::wasm32::memory_grow(0, pages) == usize::MAX { return 0; }
            SIZE += pages << 16;
        }
        ROOM
    }
}

/// Fills the answer in; 0 says that it is there.
#[no_mangle]
pub extern "C" fn run(block: usize, _bytes: usize) -> i32 {
    let batch = Batch(block as *mut i64);
    if batch.word(0) != ABI { return 1; }
    answer(&batch);
    0
}

/// A view on the block, which lies there until the call's end and longer.
pub struct Batch(*mut i64);

impl Batch {
    fn word(&self, at: usize) -> i64 { unsafe { *self.0.add(at) } }
    fn column(&self, at: usize, rows: usize) -> &'static mut [i64] {
        unsafe { core::slice::from_raw_parts_mut(self.0.add(at), rows) }
    }
}

pub const ABI: i64 = 1;

#[allow(dead_code)]
impl Batch {
    /// count: open now
    pub fn connections(&self) -> i64 { self.word(1) }
    /// count: that the owner allows
    pub fn most(&self) -> i64 { self.word(2) }
    /// everybody in the peer book, connected or not
    pub fn peers_rows(&self) -> usize { self.word(3) as usize }
    /// bytes: verified content that it sent us, halved every 6 h
    pub fn peers_useful(&self) -> &'static [i64] { self.column(4, self.peers_rows()) }
    /// bytes/s: at which it sends while we wait; 0: not known
    pub fn peers_rate(&self) -> &'static [i64] { self.column(4 + self.peers_rows(), self.peers_rows()) }
    /// µs: moving average of our pings; -1: not known
    pub fn peers_rtt(&self) -> &'static [i64] { self.column(4 + 2 * self.peers_rows(), self.peers_rows()) }
    /// s: since we heard of it first
    pub fn peers_known(&self) -> &'static [i64] { self.column(4 + 3 * self.peers_rows(), self.peers_rows()) }
    /// thousandths: points of faults, halved every 10 minutes
    pub fn peers_faults(&self) -> &'static [i64] { self.column(4 + 4 * self.peers_rows(), self.peers_rows()) }
    /// count: since the last that succeeded
    pub fn peers_failed_dials(&self) -> &'static [i64] { self.column(4 + 5 * self.peers_rows(), self.peers_rows()) }
    /// 0 or 1: whether it is connected now
    pub fn peers_connected(&self) -> &'static [i64] { self.column(4 + 6 * self.peers_rows(), self.peers_rows()) }
    /// 0 or 1: whether that is by a dial of ours
    pub fn peers_dialled(&self) -> &'static [i64] { self.column(4 + 7 * self.peers_rows(), self.peers_rows()) }
    /// messages: of gossip that it was the first to bring, fading
    pub fn peers_first(&self) -> &'static [i64] { self.column(4 + 8 * self.peers_rows(), self.peers_rows()) }
    /// messages: that others had brought before, fading
    pub fn peers_duplicates(&self) -> &'static [i64] { self.column(4 + 9 * self.peers_rows(), self.peers_rows()) }
    /// thousandths: the higher, the longer it is kept
    pub fn answer_keep(&self) -> &'static mut [i64] { self.column(4 + 10 * self.peers_rows(), self.peers_rows()) }
    /// thousandths: the higher, the rather in gossip's mesh
    pub fn answer_gossip(&self) -> &'static mut [i64] { self.column(4 + 11 * self.peers_rows(), self.peers_rows()) }
}
// -- end of what synapsectl made from the slot --

const MIB_BITS: i64 = 20;
const NEAR_MOST: i64 = 2_000;
const NEAR_HALF_US: i64 = 50_000;
const DAY: i64 = 86_400;
const DELIVERED_MOST: i64 = 2_000;
const DELIVERED_LEAST: i64 = 8;

/// log2 in thousandths of x >= 2^20. x * 1000 may need more than 64 bits: it is shifted in halves.
fn log2_milli(x: u64) -> i64 {
    let whole = 63 - x.leading_zeros();
    let thousand = ((x >> 10) * 1000 + ((x & 1023) * 1000 >> 10)) >> (whole - 10);
    (whole as i64) * 1000 + thousand as i64 - 1000
}

fn near(rtt: i64) -> i64 {
    if rtt < 0 { 0 } else { NEAR_MOST * NEAR_HALF_US / (NEAR_HALF_US + rtt) }
}

fn answer(batch: &Batch) {
    let (useful, rtt) = (batch.peers_useful(), batch.peers_rtt());
    let (known, faults) = (batch.peers_known(), batch.peers_faults());
    let (first, duplicates) = (batch.peers_first(), batch.peers_duplicates());
    let (keep, gossip) = (batch.answer_keep(), batch.answer_gossip());
    let rows = batch.peers_rows();
    // Said once, so that the loop need not ask for each.
    let all = [useful.len(), rtt.len(), known.len(), faults.len(), first.len(), duplicates.len()];
    if all.iter().any(|&each| each != rows) || keep.len() != rows || gossip.len() != rows {
        return;
    }
    for at in 0..rows {
        let close = near(rtt[at]);
        let service = log2_milli((1u64 << MIB_BITS) + useful[at] as u64) - MIB_BITS * 1000;
        let acquaintance = core::cmp::min(1000, known[at] * 1000 / DAY);
        keep[at] = service + close + acquaintance - faults[at];
        let heard = first[at] + duplicates[at];
        let share =
            if heard >= DELIVERED_LEAST { DELIVERED_MOST * first[at] / heard } else { 0 };
        gossip[at] = close + share - faults[at];
    }
}
