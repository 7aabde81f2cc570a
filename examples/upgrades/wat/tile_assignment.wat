;; The slot tile_assignment, ABI 1: Assigns the chunks that a pull lacks to the peers that have them.
;; docs/slots.md says what the columns mean and what every implementation keeps.

;; -- begin of what synapsectl made from the slot --
;; Words of 8 bytes from the block's beginning:
;;   0: the ABI, 1
;;   1: left, bytes: that the pull lacks
;;   2: flow, bytes/s: that arrive from everybody
;;   3: peers_rows, who may be asked
;;   4: chunks_rows, what is lacking and not in flight
;;   5: peers_near, 0 or 1: whether it is on the local network
;;   5 + peers rows: peers_rate, bytes/s: at which it sends; 0: not known yet
;;   5 + 2 * peers rows: peers_given, bytes: that it has sent in this pull
;;   5 + 3 * peers rows: peers_flying, bytes: asked of it and not here yet
;;   5 + 4 * peers rows: chunks_file, number: of the pull's files
;;   5 + 4 * peers rows + chunks rows: chunks_size, bytes: of the chunk
;;   5 + 4 * peers rows + 2 * chunks rows: chunks_rarity, peers: that are still collecting and have all of it
;;   5 + 4 * peers rows + 3 * chunks rows: chunks_noise, number: of this pull alone, alike in a tile
;;   5 + 4 * peers rows + 4 * chunks rows: chunks_holders, mask: peers that have something of it
;;   5 + 4 * peers rows + 5 * chunks rows: chunks_pullers, mask: peers that collect its file as we do
;;   5 + 4 * peers rows + 6 * chunks rows: chunks_wanters, mask: those of them that lack something of it
;;   5 + 4 * peers rows + 7 * chunks rows: chunks_place, number: ours among the wanters, in a draw that all make alike
;;   5 + 4 * peers rows + 8 * chunks rows: answer_order, rank: asked for first: the least
;;   5 + 4 * peers rows + 9 * chunks rows: answer_first, mask: peers that may be asked at once
;;   5 + 4 * peers rows + 10 * chunks rows: answer_second, mask: peers that may be asked after the wait
;;   5 + 4 * peers rows + 11 * chunks rows: answer_wait, steps: of patience; everybody else waits one more
;; -- end of what synapsectl made from the slot --
(module
  (memory (export "memory") 1 256)
  (global $room (mut i32) (i32.const 0))
  (global $size (mut i32) (i32.const 0))

  ;; Room for a block of so many bytes: at the end of memory, which grows where it is too small.
  (func (export "reserve") (param $bytes i32) (result i32)
    (local $pages i32) (local $end i32)
    (if (i32.gt_u (local.get $bytes) (global.get $size))
      (then
        (local.set $end (i32.shl (memory.size) (i32.const 16)))
        (if (i32.ne (i32.add (global.get $room) (global.get $size)) (local.get $end))
          (then
            (global.set $room (local.get $end))
            (global.set $size (i32.const 0))))
        (local.set $pages
          (i32.shr_u
            (i32.add (i32.sub (local.get $bytes) (global.get $size)) (i32.const 65535))
            (i32.const 16)))
        (if (i32.lt_s (memory.grow (local.get $pages)) (i32.const 0))
          (then (return (i32.const 0))))
        (global.set $size
          (i32.add (global.get $size) (i32.shl (local.get $pages) (i32.const 16))))))
    (global.get $room))

  (global $second (mut i64) (i64.const 0))
  (global $wait (mut i64) (i64.const 0))

  ;; The peers that are near by, as a mask.
  (func $near (param $at i32) (param $rows i32) (result i64)
    (local $bit i64) (local $mask i64)
    (loop $next
      (if (i32.eqz (local.get $rows)) (then (return (local.get $mask))))
      (local.set $mask
        (i64.or
          (local.get $mask)
          (i64.shl (i64.and (i64.load (local.get $at)) (i64.const 1)) (local.get $bit))))
      (local.set $bit (i64.add (local.get $bit) (i64.const 1)))
      (local.set $at (i32.add (local.get $at) (i32.const 8)))
      (local.set $rows (i32.sub (local.get $rows) (i32.const 1)))
      (br $next))
    (unreachable))

  ;; How long those wait who could take a chunk from one of $crew instead of its sources: not at
  ;; all where the crew is smaller, two steps where one of it has something, else by our place.
  (func $waiting (param $crew i64) (param $sources i64) (param $holders i64) (param $place i64)
    (result i64)
    (if (i64.eqz (local.get $crew)) (then (return (i64.const 0))))
    (if
      (i64.lt_s
        (i64.popcnt (local.get $crew))
        (i64.popcnt
          (i64.and (local.get $sources) (i64.xor (local.get $crew) (i64.const -1)))))
      (then (return (i64.const 0))))
    (select
      (local.get $place)
      (i64.const 2)
      (i64.eqz (i64.and (local.get $holders) (local.get $crew)))))

  ;; Who is asked at once; $second and $wait become who is asked later, and when.
  (func $first (param $near i64) (param $holders i64) (param $pullers i64) (param $place i64)
    (result i64)
    (local $far i64) (local $house i64) (local $crew i64) (local $steps i64)
    (local.set $far (i64.xor (local.get $near) (i64.const 0x3fffffffffffffff)))
    (local.set $house (i64.and (local.get $pullers) (local.get $near)))
    (local.set $steps
      (call $waiting
        (local.get $house)
        (i64.and (local.get $holders) (local.get $near))
        (local.get $holders)
        (local.get $place)))
    (if (i64.ne (i64.and (local.get $holders) (local.get $near)) (i64.const 0))
      (then
        (call $held_near (local.get $near) (local.get $holders) (local.get $far) (local.get $steps))
        (return
          (select
            (local.get $near)
            (local.get $house)
            (i64.eqz (local.get $steps))))))
    (local.set $crew (i64.and (local.get $pullers) (local.get $far)))
    (local.set $house
      (select (local.get $near) (local.get $house) (i64.eqz (local.get $steps))))
    (local.set $steps
      (if (result i64) (i64.eqz (i64.and (local.get $pullers) (local.get $near)))
        (then
          (call $waiting
            (local.get $crew)
            (i64.and (local.get $holders) (local.get $far))
            (local.get $holders)
            (local.get $place)))
        (else (local.get $place))))
    (global.set $second (i64.const 0x3fffffffffffffff))
    (global.set $wait (local.get $steps))
    (i64.or
      (local.get $house)
      (select (local.get $far) (local.get $crew) (i64.eqz (local.get $steps)))))

  ;; One near by has it: peers elsewhere wait two steps, and longer where it is our turn later.
  (func $held_near (param $near i64) (param $holders i64) (param $far i64) (param $steps i64)
    (global.set $second (local.get $near))
    (global.set $wait (local.get $steps))
    (if (i64.eq (local.get $steps) (i64.const 1)) (then (return)))
    (if
      (i32.and
        (i64.gt_s (local.get $steps) (i64.const 2))
        (i64.eqz (i64.and (local.get $holders) (local.get $far))))
      (then (return)))
    (global.set $second
      (select
        (local.get $far)
        (i64.const 0x3fffffffffffffff)
        (i64.gt_s (local.get $steps) (i64.const 2))))
    (global.set $wait (i64.const 2)))

  ;; Fills the answer in; 0 says that it is there.
  (func (export "run") (param $block i32) (param $bytes i32) (result i32)
    (local $rows i32) (local $column i32) (local $at i32) (local $near i64)
    (if (i64.ne (i64.load (local.get $block)) (i64.const 1)) (then (return (i32.const 1))))
    (local.set $at (i32.add (local.get $block) (i32.const 40)))
    (local.set $rows (i32.wrap_i64 (i64.load offset=24 (local.get $block))))
    (local.set $near (call $near (local.get $at) (local.get $rows)))
    ;; Four columns of peers, then those of chunks.
    (local.set $at (i32.add (local.get $at) (i32.mul (local.get $rows) (i32.const 32))))
    (local.set $rows (i32.wrap_i64 (i64.load offset=32 (local.get $block))))
    (local.set $column (i32.shl (local.get $rows) (i32.const 3)))
    (loop $next
      (if (i32.eqz (local.get $rows)) (then (return (i32.const 0))))
      (call $put (local.get $at) (local.get $column) (i32.const 8)
        (i64.or
          (i64.shl (call $cell (local.get $at) (local.get $column) (i32.const 2)) (i64.const 48))
          (call $cell (local.get $at) (local.get $column) (i32.const 3))))
      (call $put (local.get $at) (local.get $column) (i32.const 9)
        (call $first
          (local.get $near)
          (call $cell (local.get $at) (local.get $column) (i32.const 4))
          (call $cell (local.get $at) (local.get $column) (i32.const 5))
          (call $cell (local.get $at) (local.get $column) (i32.const 7))))
      (call $put (local.get $at) (local.get $column) (i32.const 10) (global.get $second))
      (call $put (local.get $at) (local.get $column) (i32.const 11) (global.get $wait))
      (local.set $rows (i32.sub (local.get $rows) (i32.const 1)))
      (local.set $at (i32.add (local.get $at) (i32.const 8)))
      (br $next))
    (unreachable))

  ;; Row $at of a column: $at points into the first column, the others are multiples of its size
  ;; further on.
  (func $cell (param $at i32) (param $column i32) (param $number i32) (result i64)
    (i64.load (i32.add (local.get $at) (i32.mul (local.get $column) (local.get $number)))))

  (func $put (param $at i32) (param $column i32) (param $number i32) (param $value i64)
    (i64.store
      (i32.add (local.get $at) (i32.mul (local.get $column) (local.get $number)))
      (local.get $value))))
