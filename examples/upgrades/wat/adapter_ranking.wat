;; The slot adapter_ranking, ABI 1: Scores announced adapters for this machine: which are listed, and fetched, first.
;; docs/slots.md says what the columns mean and what every implementation keeps.

;; -- begin of what synapsectl made from the slot --
;; Words of 8 bytes from the block's beginning:
;;   0: the ABI, 1
;;   1: free, bytes: that the owner has left of the quota
;;   2: spare, bytes: that may still be held for others
;;   3: wanted, count: copies that each adapter should have in the network
;;   4: adapters_rows, all adapters that are announced
;;   5: adapters_base, thousandths: of its base model's bytes that are here
;;   5 + adapters rows: adapters_owned, 0 or 1: whether the base is here because the owner wants it
;;   5 + 2 * adapters rows: adapters_bytes, bytes: of the adapter's file
;;   5 + 3 * adapters rows: adapters_rank, count: of its factors
;;   5 + 4 * adapters rows: adapters_holders, count: alive that announce it, this daemon too
;;   5 + 5 * adapters rows: adapters_reputation, points: of its author on the ledger; until its manifest is here, of who announces it and has most
;;   5 + 6 * adapters rows: adapters_age, s: since the oldest announcement of it that is in force
;;   5 + 7 * adapters rows: adapters_held, 0 or 1: whether all of it is here
;;   5 + 8 * adapters rows: adapters_own, 0 or 1: whether this daemon announces it
;;   5 + 9 * adapters rows: answer_score, points: the higher, the earlier it is taken
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

  (global $free (mut i64) (i64.const 0))

  (func $digits (param $value i64) (result i64)
    (i64.sub (i64.const 64) (i64.clz (local.get $value))))

  ;; What is here of its base, and who made it, has it and says so.
  (func $standing (param $at i32) (param $column i32) (param $base i64) (result i64)
    (i64.add
      (i64.add
        (i64.div_s (i64.mul (i64.const 350000) (local.get $base)) (i64.const 1000))
        (i64.mul (i64.const 100000) (call $cell (local.get $at) (local.get $column) (i32.const 1))))
      (i64.add
        (i64.mul (i64.const 12000)
          (call $least
            (call $digits (call $cell (local.get $at) (local.get $column) (i32.const 5)))
            (i64.const 16)))
        (i64.mul (i64.const 20000)
          (call $least
            (call $cell (local.get $at) (local.get $column) (i32.const 4))
            (i64.const 8))))))

  ;; How new, how small and how deep it is.
  (func $nature (param $at i32) (param $column i32) (param $size i64) (result i64)
    (i64.add
      (i64.add
        (i64.div_s
          (i64.const 207360000000)
          (i64.add
            (i64.const 2592000)
            (call $cell (local.get $at) (local.get $column) (i32.const 6))))
        (i64.div_s (i64.const 5368709120000) (i64.add (i64.const 67108864) (local.get $size))))
      (i64.mul
        (i64.const 3000)
        (call $digits (call $cell (local.get $at) (local.get $column) (i32.const 3))))))

  ;; An adapter whose base is not here, or that there is no room for, is listed far below.
  (func $score (param $at i32) (param $column i32) (result i64)
    (local $base i64) (local $size i64) (local $points i64)
    (local.set $base (call $cell (local.get $at) (local.get $column) (i32.const 0)))
    (local.set $size (call $cell (local.get $at) (local.get $column) (i32.const 2)))
    (local.set $points
      (i64.add
        (call $standing (local.get $at) (local.get $column) (local.get $base))
        (call $nature (local.get $at) (local.get $column) (local.get $size))))
    (if (i64.eqz (local.get $base))
      (then (local.set $points (i64.shr_u (local.get $points) (i64.const 2)))))
    (if
      (i32.and
        (i64.eqz (call $cell (local.get $at) (local.get $column) (i32.const 7)))
        (i64.gt_s (local.get $size) (global.get $free)))
      (then (local.set $points (i64.shr_u (local.get $points) (i64.const 3)))))
    (local.get $points))

  ;; Fills the answer in; 0 says that it is there.
  (func (export "run") (param $block i32) (param $bytes i32) (result i32)
    (local $rows i32) (local $column i32) (local $at i32)
    (if (i64.ne (i64.load (local.get $block)) (i64.const 1)) (then (return (i32.const 1))))
    (global.set $free (i64.load offset=8 (local.get $block)))
    (local.set $rows (i32.wrap_i64 (i64.load offset=32 (local.get $block))))
    (local.set $column (i32.shl (local.get $rows) (i32.const 3)))
    (local.set $at (i32.add (local.get $block) (i32.const 40)))
    (loop $next
      (if (i32.eqz (local.get $rows)) (then (return (i32.const 0))))
      (call $put (local.get $at) (local.get $column) (i32.const 9)
        (call $score (local.get $at) (local.get $column)))
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
