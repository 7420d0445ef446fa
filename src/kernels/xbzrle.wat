;; xbzrle deltas of single pages, byte for byte those of encodeXbzrle in src/wire/xbzrle.ts, which is its twin. Built into
;; xbzrle-wasm.ts by `node scripts/build-kernels.mjs`.
;;
;; Reads up to 15 bytes behind both pages, and writes up to 15 behind the delta.
(module
  (memory (export "memory") 0)

  ;; Encodes the page at $fresh against that at $old, whose place it then takes.
  ;;   $length  bytes of a page: a multiple of 64
  ;;   $out     gets the delta: a beginning of it when it does not fit
  ;;   $limit   bytes that the delta may have
  ;; The result is the length of the delta: 0 when nothing changed, -1 when it does not fit or has a run of 16 KiB.
  (func (export "update")
    (param $old i32) (param $fresh i32) (param $length i32) (param $out i32) (param $limit i32) (result i32)
    (local $result i32)
    (local.set $result (call $encode
      (local.get $old) (local.get $fresh) (local.get $length) (local.get $out) (local.get $limit)))
    (if (local.get $result) (then (call $copy (local.get $old) (local.get $fresh) (local.get $length))))
    (local.get $result))

  ;; Copies a page. 64 bytes a turn.
  (func $copy (export "copy") (param $to i32) (param $from i32) (param $length i32)
    (local $end i32)
    (local.set $end (i32.add (local.get $from) (local.get $length)))
    (loop $bytes
      (v128.store (local.get $to) (v128.load (local.get $from)))
      (v128.store offset=16 (local.get $to) (v128.load offset=16 (local.get $from)))
      (v128.store offset=32 (local.get $to) (v128.load offset=32 (local.get $from)))
      (v128.store offset=48 (local.get $to) (v128.load offset=48 (local.get $from)))
      (local.set $to (i32.add (local.get $to) (i32.const 64)))
      (local.set $from (i32.add (local.get $from) (i32.const 64)))
      (br_if $bytes (i32.lt_u (local.get $from) (local.get $end)))))

  (func $encode
    (param $old i32) (param $fresh i32) (param $length i32) (param $out i32) (param $limit i32) (result i32)
    (local $at i32) (local $run i32) (local $start i32) (local $mask i32) (local $write i32) (local $end i32)
    (local $same i32) (local $changed i32) (local $from i32) (local $to i32)
    (local.set $write (local.get $out))
    (local.set $end (i32.add (local.get $out) (local.get $limit)))
    (loop $runs (result i32)
      ;; What is the same: up to the first byte that differs.
      (local.set $run (local.get $at))
      (block $differs
        (loop $vectors
          (local.set $mask (i32.xor (i32.const 0xffff) (i8x16.bitmask (i8x16.eq
            (v128.load (i32.add (local.get $old) (local.get $at)))
            (v128.load (i32.add (local.get $fresh) (local.get $at)))))))
          (br_if $differs (local.get $mask))
          (local.set $at (i32.add (local.get $at) (i32.const 16)))
          (br_if $vectors (i32.lt_u (local.get $at) (local.get $length)))
          (return (i32.sub (local.get $write) (local.get $out)))))
      (local.set $start (i32.add (local.get $at) (i32.ctz (local.get $mask))))
      ;; What differs behind the page is no change of it.
      (if (i32.ge_u (local.get $start) (local.get $length))
        (then (return (i32.sub (local.get $write) (local.get $out)))))

      ;; What changed: up to the first byte that is the same.
      (local.set $at (local.get $start))
      (block $equals
        (loop $vectors
          (local.set $mask (i8x16.bitmask (i8x16.eq
            (v128.load (i32.add (local.get $old) (local.get $at)))
            (v128.load (i32.add (local.get $fresh) (local.get $at))))))
          (br_if $equals (local.get $mask))
          (local.set $at (i32.add (local.get $at) (i32.const 16)))
          (br_if $vectors (i32.lt_u (local.get $at) (local.get $length)))
          (local.set $at (local.get $length))))
      (if (local.get $mask) (then (local.set $at (i32.add (local.get $at) (i32.ctz (local.get $mask))))))
      (if (i32.gt_u (local.get $at) (local.get $length)) (then (local.set $at (local.get $length))))

      (local.set $same (i32.sub (local.get $start) (local.get $run)))
      (local.set $changed (i32.sub (local.get $at) (local.get $start)))
      (if (i32.or
            (i32.gt_u (local.get $same) (i32.const 0x3fff))
            (i32.gt_u (local.get $changed) (i32.const 0x3fff)))
        (then (return (i32.const -1))))
      (if (i32.gt_u
            (i32.add
              (i32.add (local.get $write) (local.get $changed))
              (i32.add
                (i32.const 2)
                (i32.add
                  (i32.ge_u (local.get $same) (i32.const 0x80))
                  (i32.ge_u (local.get $changed) (i32.const 0x80)))))
            (local.get $end))
        (then (return (i32.const -1))))
      (local.set $write (call $putLength (local.get $write) (local.get $same)))
      (local.set $write (call $putLength (local.get $write) (local.get $changed)))

      (local.set $from (i32.add (local.get $fresh) (local.get $start)))
      (local.set $to (local.get $write))
      (local.set $write (i32.add (local.get $write) (local.get $changed)))
      (loop $bytes
        (v128.store (local.get $to) (v128.load (local.get $from)))
        (local.set $from (i32.add (local.get $from) (i32.const 16)))
        (local.set $to (i32.add (local.get $to) (i32.const 16)))
        (br_if $bytes (i32.lt_u (local.get $to) (local.get $write))))

      (br_if $runs (i32.lt_u (local.get $at) (local.get $length)))
      (i32.sub (local.get $write) (local.get $out))))

  ;; Writes the length of a run, uleb128 of at most two bytes, and returns where it ends.
  (func $putLength (param $at i32) (param $length i32) (result i32)
    (if (i32.lt_u (local.get $length) (i32.const 0x80))
      (then
        (i32.store8 (local.get $at) (local.get $length))
        (return (i32.add (local.get $at) (i32.const 1)))))
    (i32.store8 (local.get $at) (i32.or (local.get $length) (i32.const 0x80)))
    (i32.store8 offset=1 (local.get $at) (i32.shr_u (local.get $length) (i32.const 7)))
    (i32.add (local.get $at) (i32.const 2))))
