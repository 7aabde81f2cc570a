// The slot tile_assignment, ABI 1: Assigns the chunks that a pull lacks to the peers that have them.
// docs/slots.md says what the columns mean and what every implementation keeps.

// -- begin of what synapsectl made from the slot --
const ABI: i64 = 1;

var room: usize = 0;
var size: usize = 0;

/// Room for a block of so many bytes: at the end of memory, which grows where it is too small.
export fn reserve(bytes: usize) usize {
    if (bytes > size) {
        const end = @wasmMemorySize(0) << 16;
        if (room + size != end) {
            room = end;
            size = 0;
        }
        const pages = (bytes - size + 65535) >> 16;
        if (@wasmMemoryGrow(0, pages) < 0) return 0;
        size += pages << 16;
    }
    return room;
}

/// Fills the answer in; 0 says that it is there.
export fn run(block: [*]i64, bytes: usize) i32 {
    _ = bytes;
    if (block[0] != ABI) return 1;
    answer(.{ .block = block });
    return 0;
}

const Batch = struct {
    block: [*]i64,

    /// bytes: that the pull lacks
    fn left(self: Batch) i64 { return self.block[1]; }
    /// bytes/s: that arrive from everybody
    fn flow(self: Batch) i64 { return self.block[2]; }
    /// who may be asked
    fn peers_rows(self: Batch) usize { return @intCast(self.block[3]); }
    /// what is lacking and not in flight
    fn chunks_rows(self: Batch) usize { return @intCast(self.block[4]); }
    /// 0 or 1: whether it is on the local network
    fn peers_near(self: Batch) [*]i64 { return self.block + 5; }
    /// bytes/s: at which it sends; 0: not known yet
    fn peers_rate(self: Batch) [*]i64 { return self.block + 5 + self.peers_rows(); }
    /// bytes: that it has sent in this pull
    fn peers_given(self: Batch) [*]i64 { return self.block + 5 + 2 * self.peers_rows(); }
    /// bytes: asked of it and not here yet
    fn peers_flying(self: Batch) [*]i64 { return self.block + 5 + 3 * self.peers_rows(); }
    /// number: of the pull's files
    fn chunks_file(self: Batch) [*]i64 { return self.block + 5 + 4 * self.peers_rows(); }
    /// bytes: of the chunk
    fn chunks_size(self: Batch) [*]i64 { return self.block + 5 + 4 * self.peers_rows() + self.chunks_rows(); }
    /// peers: that are still collecting and have all of it
    fn chunks_rarity(self: Batch) [*]i64 { return self.block + 5 + 4 * self.peers_rows() + 2 * self.chunks_rows(); }
    /// number: of this pull alone, alike in a tile
    fn chunks_noise(self: Batch) [*]i64 { return self.block + 5 + 4 * self.peers_rows() + 3 * self.chunks_rows(); }
    /// mask: peers that have something of it
    fn chunks_holders(self: Batch) [*]i64 { return self.block + 5 + 4 * self.peers_rows() + 4 * self.chunks_rows(); }
    /// mask: peers that collect its file as we do
    fn chunks_pullers(self: Batch) [*]i64 { return self.block + 5 + 4 * self.peers_rows() + 5 * self.chunks_rows(); }
    /// mask: those of them that lack something of it
    fn chunks_wanters(self: Batch) [*]i64 { return self.block + 5 + 4 * self.peers_rows() + 6 * self.chunks_rows(); }
    /// number: ours among the wanters, in a draw that all make alike
    fn chunks_place(self: Batch) [*]i64 { return self.block + 5 + 4 * self.peers_rows() + 7 * self.chunks_rows(); }
    /// rank: asked for first: the least
    fn answer_order(self: Batch) [*]i64 { return self.block + 5 + 4 * self.peers_rows() + 8 * self.chunks_rows(); }
    /// mask: peers that may be asked at once
    fn answer_first(self: Batch) [*]i64 { return self.block + 5 + 4 * self.peers_rows() + 9 * self.chunks_rows(); }
    /// mask: peers that may be asked after the wait
    fn answer_second(self: Batch) [*]i64 { return self.block + 5 + 4 * self.peers_rows() + 10 * self.chunks_rows(); }
    /// steps: of patience; everybody else waits one more
    fn answer_wait(self: Batch) [*]i64 { return self.block + 5 + 4 * self.peers_rows() + 11 * self.chunks_rows(); }
};
// -- end of what synapsectl made from the slot --

const everybody: i64 = (1 << 62) - 1;
const held_wait: i64 = 2;
const noise_bits = 48;

const Waits = struct { first: i64, second: i64, wait: i64 };

/// Who is asked for a chunk at once, who after the wait, and how long that is. Near first; and
/// where co-pullers are at least as many as the sources, one of them takes it from a source.
fn waits(near: i64, holders: i64, pullers: i64, place: i64) Waits {
    const far = everybody & ~near;
    const house = pullers & near;
    var first = house;
    var near_wait: i64 = 0;
    if (house != 0 and @popCount(house) >= @popCount(holders & near & ~house)) {
        near_wait = if (holders & house != 0) held_wait else place;
    }
    if (near_wait == 0) first |= near;
    if (holders & near != 0) {
        if (near_wait != 0 and near_wait < held_wait) {
            return .{ .first = first, .second = near, .wait = near_wait };
        }
        if (near_wait > held_wait and holders & far == 0) {
            return .{ .first = first, .second = near, .wait = near_wait };
        }
        const second = if (near_wait > held_wait) far else everybody;
        return .{ .first = first, .second = second, .wait = held_wait };
    }
    const crew = pullers & far;
    var far_wait: i64 = if (house != 0) place else 0;
    if (crew != 0 and house == 0 and @popCount(crew) >= @popCount(holders & far & ~crew)) {
        far_wait = if (holders & crew != 0) held_wait else place;
    }
    first |= if (far_wait != 0) crew else far;
    return .{ .first = first, .second = everybody, .wait = far_wait };
}

fn answer(batch: Batch) void {
    var near: i64 = 0;
    for (0..batch.peers_rows()) |at| {
        near |= (batch.peers_near()[at] & 1) << @intCast(at);
    }
    const holders = batch.chunks_holders();
    const pullers = batch.chunks_pullers();
    const place = batch.chunks_place();
    const rarity = batch.chunks_rarity();
    const noise = batch.chunks_noise();
    const order = batch.answer_order();
    const first = batch.answer_first();
    const second = batch.answer_second();
    const wait = batch.answer_wait();
    for (0..batch.chunks_rows()) |at| {
        const found = waits(near, holders[at], pullers[at], place[at]);
        order[at] = rarity[at] << noise_bits | noise[at];
        first[at] = found.first;
        second[at] = found.second;
        wait[at] = found.wait;
    }
}
