;; The slot peer_scoring, ABI 1: Scores everybody in the peer book: whom to stay connected to, and whom to gossip with.
;; docs/slots.md says what the columns mean and what every implementation keeps.

;; -- begin of what synapsectl made from the slot --
;; Words of 8 bytes from the block's beginning:
;;   0: the ABI, 1
;;   1: connections, count: open now
;;   2: most, count: that the owner allows
;;   3: peers_rows, everybody in the peer book, connected or not
;;   4: peers_useful, bytes: verified content that it sent us, halved every 6 h
;;   4 + peers rows: peers_rate, bytes/s: at which it sends while we wait; 0: not known
;;   4 + 2 * peers rows: peers_rtt, µs: moving average of our pings; -1: not known
;;   4 + 3 * peers rows: peers_known, s: since we heard of it first
;;   4 + 4 * peers rows: peers_faults, thousandths: points of faults, halved every 10 minutes
;;   4 + 5 * peers rows: peers_failed_dials, count: since the last that succeeded
;;   4 + 6 * peers rows: peers_connected, 0 or 1: whether it is connected now
;;   4 + 7 * peers rows: peers_dialled, 0 or 1: whether that is by a dial of ours
;;   4 + 8 * peers rows: peers_first, messages: of gossip that it was the first to bring, fading
;;   4 + 9 * peers rows: peers_duplicates, messages: that others had brought before, fading
;;   4 + 10 * peers rows: answer_keep, thousandths: the higher, the longer it is kept
;;   4 + 11 * peers rows: answer_gossip, thousandths: the higher, the rather in gossip's mesh
;; -- end of what synapsectl made from the slot --
(module
  (memory (export "memory") 1 64)
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

  ;; A round trip's worth: 2000 thousandths for none, half of it for 50 ms, 0 where not known.
  (func $near (param $rtt i64) (result i64)
    (if (result i64) (i64.lt_s (local.get $rtt) (i64.const 0))
      (then (i64.const 0))
      (else
        (i64.div_s (i64.const 100000000) (i64.add (i64.const 50000) (local.get $rtt))))))

  ;; log2 in thousandths of x >= 2^20. x * 1000 may need more than 64 bits: it is shifted in halves.
  (func $log2 (param $x i64) (result i64)
    (local $whole i64)
    (local.set $whole (i64.sub (i64.const 63) (i64.clz (local.get $x))))
    (i64.add
      (i64.mul (i64.sub (local.get $whole) (i64.const 1)) (i64.const 1000))
      (i64.shr_u
        (i64.add
          (i64.mul (i64.shr_u (local.get $x) (i64.const 10)) (i64.const 1000))
          (i64.shr_u
            (i64.mul (i64.and (local.get $x) (i64.const 1023)) (i64.const 1000))
            (i64.const 10)))
        (i64.sub (local.get $whole) (i64.const 10)))))

  ;; Known for a day or longer is worth 1000.
  (func $known (param $seconds i64) (result i64)
    (local $worth i64)
    (local.set $worth
      (i64.div_s (i64.mul (local.get $seconds) (i64.const 1000)) (i64.const 86400)))
    (select (local.get $worth) (i64.const 1000) (i64.lt_s (local.get $worth) (i64.const 1000))))

  ;; The share of the messages that it brought first, of 2000; of fewer than 8 it says nothing.
  (func $share (param $first i64) (param $duplicates i64) (result i64)
    (local $heard i64)
    (local.set $heard (i64.add (local.get $first) (local.get $duplicates)))
    (if (result i64) (i64.lt_s (local.get $heard) (i64.const 8))
      (then (i64.const 0))
      (else (i64.div_s (i64.mul (i64.const 2000) (local.get $first)) (local.get $heard)))))

  ;; Fills the answer in; 0 says that it is there.
  (func (export "run") (param $block i32) (param $bytes i32) (result i32)
    (local $rows i32) (local $column i32) (local $at i32)
    (local $near i64) (local $faults i64)
    (if (i64.ne (i64.load (local.get $block)) (i64.const 1)) (then (return (i32.const 1))))
    (local.set $rows (i32.wrap_i64 (i64.load offset=24 (local.get $block))))
    (local.set $column (i32.shl (local.get $rows) (i32.const 3)))
    ;; $at is the row's place in the first column; the others are multiples of $column further on.
    (local.set $at (i32.add (local.get $block) (i32.const 32)))
    (loop $next
      (if (i32.eqz (local.get $rows)) (then (return (i32.const 0))))
      (local.set $near (call $near (call $cell (local.get $at) (local.get $column) (i32.const 2))))
      (local.set $faults (call $cell (local.get $at) (local.get $column) (i32.const 4)))
      (call $put (local.get $at) (local.get $column) (i32.const 10)
        (i64.sub
          (i64.add
            (i64.add
              (i64.sub
                (call $log2 (i64.add (i64.const 1048576) (i64.load (local.get $at))))
                (i64.const 20000))
              (local.get $near))
            (call $known (call $cell (local.get $at) (local.get $column) (i32.const 3))))
          (local.get $faults)))
      (call $put (local.get $at) (local.get $column) (i32.const 11)
        (i64.sub
          (i64.add
            (local.get $near)
            (call $share
              (call $cell (local.get $at) (local.get $column) (i32.const 8))
              (call $cell (local.get $at) (local.get $column) (i32.const 9))))
          (local.get $faults)))
      (local.set $rows (i32.sub (local.get $rows) (i32.const 1)))
      (local.set $at (i32.add (local.get $at) (i32.const 8)))
      (br $next))
    (unreachable))

  (func $cell (param $at i32) (param $column i32) (param $number i32) (result i64)
    (i64.load (i32.add (local.get $at) (i32.mul (local.get $column) (local.get $number)))))

  (func $put (param $at i32) (param $column i32) (param $number i32) (param $value i64)
    (i64.store
      (i32.add (local.get $at) (i32.mul (local.get $column) (local.get $number)))
      (local.get $value))))
