;; The slot eviction, ABI 1: Says what of that which is held for others goes first, where the owner needs the room.
;; docs/slots.md says what the columns mean and what every implementation keeps.

;; -- begin of what synapsectl made from the slot --
;; Words of 8 bytes from the block's beginning:
;;   0: the ABI, 1
;;   1: need, bytes: that are to be freed
;;   2: wanted, count: copies that each tile should have in the network
;;   3: used, bytes: of the store, by everything
;;   4: quota, bytes: that the store may have
;;   5: candidates_rows, all that could go
;;   6: candidates_kind, 0 or 1: 0: tiles held as a copy for others; 1: headers watched
;;   6 + candidates rows: candidates_model, number: the same for candidates that are of one model
;;   6 + 2 * candidates rows: candidates_bytes, bytes: that go with it
;;   6 + 3 * candidates rows: candidates_copies, count: proven ones elsewhere, of its rarest tile; some holders are enough to prove
;;   6 + 4 * candidates rows: candidates_holders, count: alive elsewhere that announce all of it
;;   6 + 5 * candidates rows: candidates_served, bytes: of it that others were given since it is here
;;   6 + 6 * candidates rows: candidates_idle, s: since others were last given some of it, or it came
;;   6 + 7 * candidates rows: candidates_age, s: since it came
;;   6 + 8 * candidates rows: candidates_rate, bytes/s: that its holders gave us, added up; 0: not known
;;   6 + 9 * candidates rows: answer_worth, : of keeping it: the least goes first
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

  (global $wanted (mut i64) (i64.const 0))

  ;; Above all else: 0 for tiles of which there are enough, 1 for headers, and from 3 on the more,
  ;; the more copies are lacking.
  (func $tier (param $kind i64) (param $lack i64) (result i64)
    (if (i64.eq (local.get $kind) (i64.const 1)) (then (return (i64.const 1))))
    (if (i64.gt_s (local.get $lack) (i64.const 0))
      (then (return (i64.add (i64.const 2) (local.get $lack)))))
    (i64.const 0))

  ;; How often a day all of it was asked for, halved after a day in which nobody did.
  (func $asked
    (param $served i64) (param $size i64) (param $idle i64) (param $age i64) (result i64)
    (local $turns i64)
    (local.set $size (i64.shr_u (local.get $size) (i64.const 10)))
    (local.set $turns
      (call $least
        (i64.div_s
          (local.get $served)
          (select (local.get $size) (i64.const 1) (i64.gt_s (local.get $size) (i64.const 1))))
        (i64.const 1048576)))
    (i64.div_s
      (i64.mul
        (i64.div_s
          (i64.mul (local.get $turns) (i64.const 86400))
          (i64.add (local.get $age) (i64.const 3600)))
        (i64.const 86400))
      (i64.add (local.get $idle) (i64.const 86400))))

  ;; What it is worth within its tier: what others would miss, shared with who has it to spare, and
  ;; a little for what comes slowly.
  (func $missed (param $asked i64) (param $spare i64) (param $rate i64) (result i64)
    (i64.add
      (i64.div_s
        (i64.mul (i64.const 64) (i64.add (i64.const 1) (local.get $asked)))
        (i64.add (i64.const 1) (local.get $spare)))
      (i64.div_s
        (i64.const 67108864)
        (select (local.get $rate) (i64.const 65536)
          (i64.gt_s (local.get $rate) (i64.const 65536))))))

  (func $worth (param $at i32) (param $column i32) (result i64)
    (local $kind i64) (local $lack i64) (local $spare i64)
    (local.set $kind (call $cell (local.get $at) (local.get $column) (i32.const 0)))
    (local.set $lack
      (i64.sub
        (global.get $wanted)
        (call $cell (local.get $at) (local.get $column) (i32.const 3))))
    (if
      (i32.and
        (i64.ne (local.get $kind) (i64.const 1))
        (i64.lt_s (local.get $lack) (i64.const 0)))
      (then (local.set $spare (i64.sub (i64.const 0) (local.get $lack)))))
    (i64.add
      (i64.shl (call $tier (local.get $kind) (local.get $lack)) (i64.const 40))
      (call $missed
        (call $asked
          (call $cell (local.get $at) (local.get $column) (i32.const 5))
          (call $cell (local.get $at) (local.get $column) (i32.const 2))
          (call $cell (local.get $at) (local.get $column) (i32.const 6))
          (call $cell (local.get $at) (local.get $column) (i32.const 7)))
        (local.get $spare)
        (call $cell (local.get $at) (local.get $column) (i32.const 8)))))

  ;; Fills the answer in; 0 says that it is there.
  (func (export "run") (param $block i32) (param $bytes i32) (result i32)
    (local $rows i32) (local $column i32) (local $at i32)
    (if (i64.ne (i64.load (local.get $block)) (i64.const 1)) (then (return (i32.const 1))))
    (global.set $wanted (i64.load offset=16 (local.get $block)))
    (local.set $rows (i32.wrap_i64 (i64.load offset=40 (local.get $block))))
    (local.set $column (i32.shl (local.get $rows) (i32.const 3)))
    (local.set $at (i32.add (local.get $block) (i32.const 48)))
    (loop $next
      (if (i32.eqz (local.get $rows)) (then (return (i32.const 0))))
      (call $put (local.get $at) (local.get $column) (i32.const 9)
        (call $worth (local.get $at) (local.get $column)))
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
      (local.get $value)))

  (func $least (param $a i64) (param $b i64) (result i64)
    (select (local.get $a) (local.get $b) (i64.lt_s (local.get $a) (local.get $b)))))
