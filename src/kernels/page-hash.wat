;; 128-bit keyed hashes of pages. What is computed, and why it is enough, stands in page-hash-key.ts; page-hash-twin.ts
;; does the same in plain TypeScript. Built into page-hash-wasm.ts by `node scripts/build-kernels.mjs`.
(module
  (memory (export "memory") 0)

  ;; Hashes the pages from $at to $end into 16 bytes each at $out.
  ;;   $page  bytes a page: a multiple of 32
  ;;   $key   the key: $page + 96 bytes for the sums, behind them four times nine 64-bit integers for the end
  (func (export "hashPages")
    (param $at i32) (param $end i32) (param $page i32) (param $key i32) (param $out i32)
    (local $stop i32) (local $k i32) (local $row i32) (local $rowEnd i32)
    (local $a v128) (local $b v128) (local $x v128) (local $y v128)
    (local $s0 v128) (local $s1 v128) (local $s2 v128) (local $s3 v128)
    (local $t0 i64) (local $t1 i64) (local $t2 i64) (local $t3 i64)
    (loop $pages
      (local.set $stop (i32.add (local.get $at) (local.get $page)))
      (local.set $k (local.get $key))
      (local.set $s0 (v128.const i64x2 0 0))
      (local.set $s1 (v128.const i64x2 0 0))
      (local.set $s2 (v128.const i64x2 0 0))
      (local.set $s3 (v128.const i64x2 0 0))

      ;; 32 bytes a turn: word i is multiplied with word i + 4, each with its own word of the key added. The four sums
      ;; use the key from four places, 32 bytes apart.
      (loop $words
        (local.set $a (v128.load (local.get $at)))
        (local.set $b (v128.load offset=16 (local.get $at)))
        (local.set $x (i32x4.add (local.get $a) (v128.load (local.get $k))))
        (local.set $y (i32x4.add (local.get $b) (v128.load offset=16 (local.get $k))))
        (local.set $s0 (i64x2.add (local.get $s0) (i64x2.add
          (i64x2.extmul_low_i32x4_u (local.get $x) (local.get $y))
          (i64x2.extmul_high_i32x4_u (local.get $x) (local.get $y)))))
        (local.set $x (i32x4.add (local.get $a) (v128.load offset=32 (local.get $k))))
        (local.set $y (i32x4.add (local.get $b) (v128.load offset=48 (local.get $k))))
        (local.set $s1 (i64x2.add (local.get $s1) (i64x2.add
          (i64x2.extmul_low_i32x4_u (local.get $x) (local.get $y))
          (i64x2.extmul_high_i32x4_u (local.get $x) (local.get $y)))))
        (local.set $x (i32x4.add (local.get $a) (v128.load offset=64 (local.get $k))))
        (local.set $y (i32x4.add (local.get $b) (v128.load offset=80 (local.get $k))))
        (local.set $s2 (i64x2.add (local.get $s2) (i64x2.add
          (i64x2.extmul_low_i32x4_u (local.get $x) (local.get $y))
          (i64x2.extmul_high_i32x4_u (local.get $x) (local.get $y)))))
        (local.set $x (i32x4.add (local.get $a) (v128.load offset=96 (local.get $k))))
        (local.set $y (i32x4.add (local.get $b) (v128.load offset=112 (local.get $k))))
        (local.set $s3 (i64x2.add (local.get $s3) (i64x2.add
          (i64x2.extmul_low_i32x4_u (local.get $x) (local.get $y))
          (i64x2.extmul_high_i32x4_u (local.get $x) (local.get $y)))))
        (local.set $k (i32.add (local.get $k) (i32.const 32)))
        (local.set $at (i32.add (local.get $at) (i32.const 32)))
        (br_if $words (i32.lt_u (local.get $at) (local.get $stop))))

      (local.set $t0 (i64.add (i64x2.extract_lane 0 (local.get $s0)) (i64x2.extract_lane 1 (local.get $s0))))
      (local.set $t1 (i64.add (i64x2.extract_lane 0 (local.get $s1)) (i64x2.extract_lane 1 (local.get $s1))))
      (local.set $t2 (i64.add (i64x2.extract_lane 0 (local.get $s2)) (i64x2.extract_lane 1 (local.get $s2))))
      (local.set $t3 (i64.add (i64x2.extract_lane 0 (local.get $s3)) (i64x2.extract_lane 1 (local.get $s3))))

      ;; Each row of nine key integers makes 32 bits of the hash from the eight halves of the sums.
      (local.set $row (i32.add (local.get $k) (i32.const 96)))
      (local.set $rowEnd (i32.add (local.get $row) (i32.const 288)))
      (loop $rows
        (i64.store32 (local.get $out)
          (i64.shr_u
            (i64.add (i64.load (local.get $row))
            (i64.add (i64.add (i64.add
              (i64.mul (i64.load offset=8 (local.get $row)) (i64.and (local.get $t0) (i64.const 0xffffffff)))
              (i64.mul (i64.load offset=16 (local.get $row)) (i64.shr_u (local.get $t0) (i64.const 32))))
            (i64.add
              (i64.mul (i64.load offset=24 (local.get $row)) (i64.and (local.get $t1) (i64.const 0xffffffff)))
              (i64.mul (i64.load offset=32 (local.get $row)) (i64.shr_u (local.get $t1) (i64.const 32)))))
            (i64.add (i64.add
              (i64.mul (i64.load offset=40 (local.get $row)) (i64.and (local.get $t2) (i64.const 0xffffffff)))
              (i64.mul (i64.load offset=48 (local.get $row)) (i64.shr_u (local.get $t2) (i64.const 32))))
            (i64.add
              (i64.mul (i64.load offset=56 (local.get $row)) (i64.and (local.get $t3) (i64.const 0xffffffff)))
              (i64.mul (i64.load offset=64 (local.get $row)) (i64.shr_u (local.get $t3) (i64.const 32)))))))
            (i64.const 32)))
        (local.set $out (i32.add (local.get $out) (i32.const 4)))
        (local.set $row (i32.add (local.get $row) (i32.const 72)))
        (br_if $rows (i32.lt_u (local.get $row) (local.get $rowEnd))))

      (br_if $pages (i32.lt_u (local.get $at) (local.get $end))))))
