;; What can be told of whole pages: which have content, which differ, of what class each is, and their check sums.
;; page-scan-twin.ts does the same in plain TypeScript. Built into page-scan-wasm.ts by `node scripts/build-kernels.mjs`.
;;
;; $at and $end are where the pages begin and end: at least one page, each a multiple of 64 bytes.
(module
  (memory (export "memory") 0)

  ;; Sets bit i of the bytes at $out where page i has a byte that is not zero; clears the others, up to a whole byte.
  (func (export "findContent") (param $at i32) (param $end i32) (param $page i32) (param $out i32)
    (local $stop i32) (local $bit i32) (local $byte i32)
    (local.set $bit (i32.const 1))
    (loop $pages
      (local.set $stop (i32.add (local.get $at) (local.get $page)))
      (block $decided
        (loop $bytes
          (if (v128.any_true
                (v128.or
                  (v128.or (v128.load (local.get $at)) (v128.load offset=16 (local.get $at)))
                  (v128.or (v128.load offset=32 (local.get $at)) (v128.load offset=48 (local.get $at)))))
            (then
              (local.set $byte (i32.or (local.get $byte) (local.get $bit)))
              (br $decided)))
          (local.set $at (i32.add (local.get $at) (i32.const 64)))
          (br_if $bytes (i32.lt_u (local.get $at) (local.get $stop)))))
      (local.set $at (local.get $stop))
      (local.set $bit (i32.shl (local.get $bit) (i32.const 1)))
      (if (i32.eq (local.get $bit) (i32.const 256))
        (then
          (i32.store8 (local.get $out) (local.get $byte))
          (local.set $out (i32.add (local.get $out) (i32.const 1)))
          (local.set $byte (i32.const 0))
          (local.set $bit (i32.const 1))))
      (br_if $pages (i32.lt_u (local.get $at) (local.get $end))))
    (if (i32.ne (local.get $bit) (i32.const 1))
      (then (i32.store8 (local.get $out) (local.get $byte)))))

  ;; Sets bit i of the bytes at $out where page i differs from the one $shift bytes behind it.
  (func (export "findChanged")
    (param $at i32) (param $end i32) (param $shift i32) (param $page i32) (param $out i32)
    (local $stop i32) (local $bit i32) (local $byte i32) (local $other i32)
    (local.set $bit (i32.const 1))
    (loop $pages
      (local.set $stop (i32.add (local.get $at) (local.get $page)))
      (block $decided
        (loop $bytes
          (local.set $other (i32.add (local.get $at) (local.get $shift)))
          (if (v128.any_true
                (v128.or
                  (v128.or
                    (v128.xor (v128.load (local.get $at)) (v128.load (local.get $other)))
                    (v128.xor (v128.load offset=16 (local.get $at)) (v128.load offset=16 (local.get $other))))
                  (v128.or
                    (v128.xor (v128.load offset=32 (local.get $at)) (v128.load offset=32 (local.get $other)))
                    (v128.xor (v128.load offset=48 (local.get $at)) (v128.load offset=48 (local.get $other))))))
            (then
              (local.set $byte (i32.or (local.get $byte) (local.get $bit)))
              (br $decided)))
          (local.set $at (i32.add (local.get $at) (i32.const 64)))
          (br_if $bytes (i32.lt_u (local.get $at) (local.get $stop)))))
      (local.set $at (local.get $stop))
      (local.set $bit (i32.shl (local.get $bit) (i32.const 1)))
      (if (i32.eq (local.get $bit) (i32.const 256))
        (then
          (i32.store8 (local.get $out) (local.get $byte))
          (local.set $out (i32.add (local.get $out) (i32.const 1)))
          (local.set $byte (i32.const 0))
          (local.set $bit (i32.const 1))))
      (br_if $pages (i32.lt_u (local.get $at) (local.get $end))))
    (if (i32.ne (local.get $bit) (i32.const 1))
      (then (i32.store8 (local.get $out) (local.get $byte)))))

  ;; Writes a byte for each page to $out: its class by the rules of PageClassRules in page-scanner.ts.
  ;;   $tables   4 KiB of zeros, and zeros again afterwards: four histograms of 256 words
  ;;   $weights  n log2 n for each n up to $page, as f64
  ;;   $sparse   most bytes that are not zero in a sparse page
  ;;   $text     share of those that are text in a page of text
  ;;   $log      log2 of $page
  ;;   $dense    least bits a byte in a dense page
  (func (export "classify")
    (param $at i32) (param $end i32) (param $page i32) (param $out i32) (param $tables i32) (param $weights i32)
    (param $sparse i32) (param $text f64) (param $log f64) (param $dense f64)
    (local $class i32) (local $used i32)
    (loop $pages
      (call $count (local.get $at) (local.get $page))
      (local.set $used (i32.sub (local.get $page) (global.get $zeros)))
      (local.set $class (i32.const 0))
      (if (local.get $used)
        (then
          (local.set $class (i32.const 1))
          (if (i32.gt_u (local.get $used) (local.get $sparse))
            (then
              (local.set $class (i32.const 2))
              (if (f64.lt (f64.convert_i32_u (global.get $texts))
                    (f64.mul (f64.convert_i32_u (local.get $used)) (local.get $text)))
                (then
                  (call $fillTables (local.get $at) (local.get $page) (local.get $tables))
                  (local.set $class (i32.add (i32.const 3) (f64.ge
                    (f64.sub (local.get $log) (f64.div
                      (call $takeSum (local.get $tables) (local.get $weights))
                      (f64.convert_i32_u (local.get $page))))
                    (local.get $dense))))))))))
      (i32.store8 (local.get $out) (local.get $class))
      (local.set $out (i32.add (local.get $out) (i32.const 1)))
      (local.set $at (i32.add (local.get $at) (local.get $page)))
      (br_if $pages (i32.lt_u (local.get $at) (local.get $end)))))

  (global $zeros (mut i32) (i32.const 0))
  (global $texts (mut i32) (i32.const 0))

  ;; Counts the bytes of a page that are zero, and those that are text.
  (func $count (param $at i32) (param $page i32)
    (local $end i32) (local $stop i32) (local $v v128)
    (local $zero v128) (local $text v128) (local $zeroSum v128) (local $textSum v128)
    (local.set $end (i32.add (local.get $at) (local.get $page)))
    (loop $parts
      ;; The counts of a part are in bytes: at most 128 in each.
      (local.set $stop (i32.add (local.get $at) (i32.const 2048)))
      (if (i32.gt_u (local.get $stop) (local.get $end)) (then (local.set $stop (local.get $end))))
      (local.set $zero (v128.const i64x2 0 0))
      (local.set $text (v128.const i64x2 0 0))
      (loop $bytes
        (local.set $v (v128.load (local.get $at)))
        (local.set $zero (i8x16.sub (local.get $zero) (i8x16.eq (local.get $v) (v128.const i64x2 0 0))))
        ;; 0x20 to 0x7e; 0x09 and 0x0a; 0x0d.
        (local.set $text (i8x16.sub (local.get $text)
          (v128.or
            (i8x16.lt_u
              (i8x16.sub (local.get $v) (v128.const i64x2 0x2020202020202020 0x2020202020202020))
              (v128.const i64x2 0x5f5f5f5f5f5f5f5f 0x5f5f5f5f5f5f5f5f))
            (v128.or
              (i8x16.lt_u
                (i8x16.sub (local.get $v) (v128.const i64x2 0x0909090909090909 0x0909090909090909))
                (v128.const i64x2 0x0202020202020202 0x0202020202020202))
              (i8x16.eq (local.get $v) (v128.const i64x2 0x0d0d0d0d0d0d0d0d 0x0d0d0d0d0d0d0d0d))))))
        (local.set $at (i32.add (local.get $at) (i32.const 16)))
        (br_if $bytes (i32.lt_u (local.get $at) (local.get $stop))))
      (local.set $zeroSum (i32x4.add (local.get $zeroSum)
        (i32x4.extadd_pairwise_i16x8_u (i16x8.extadd_pairwise_i8x16_u (local.get $zero)))))
      (local.set $textSum (i32x4.add (local.get $textSum)
        (i32x4.extadd_pairwise_i16x8_u (i16x8.extadd_pairwise_i8x16_u (local.get $text)))))
      (br_if $parts (i32.lt_u (local.get $at) (local.get $end))))
    (global.set $zeros (call $sumOf (local.get $zeroSum)))
    (global.set $texts (call $sumOf (local.get $textSum))))

  (func $sumOf (param $v v128) (result i32)
    (i32.add
      (i32.add (i32x4.extract_lane 0 (local.get $v)) (i32x4.extract_lane 1 (local.get $v)))
      (i32.add (i32x4.extract_lane 2 (local.get $v)) (i32x4.extract_lane 3 (local.get $v)))))

  ;; Counts each value. Four histograms in turns: a value that comes again at once need not wait for itself.
  (func $fillTables (param $at i32) (param $page i32) (param $tables i32)
    (local $end i32) (local $entry i32) (local $word i64)
    (local.set $end (i32.add (local.get $at) (local.get $page)))
    (loop $words
      (local.set $word (i64.load (local.get $at)))
      (local.set $entry (i32.add (local.get $tables) (i32.shl (i32.and (i32.wrap_i64 (local.get $word)) (i32.const 255)) (i32.const 2))))
      (i32.store (local.get $entry) (i32.add (i32.load (local.get $entry)) (i32.const 1)))
      (local.set $entry (i32.add (local.get $tables) (i32.and (i32.wrap_i64 (i64.shr_u (local.get $word) (i64.const 6))) (i32.const 1020))))
      (i32.store offset=1024 (local.get $entry) (i32.add (i32.load offset=1024 (local.get $entry)) (i32.const 1)))
      (local.set $entry (i32.add (local.get $tables) (i32.and (i32.wrap_i64 (i64.shr_u (local.get $word) (i64.const 14))) (i32.const 1020))))
      (i32.store offset=2048 (local.get $entry) (i32.add (i32.load offset=2048 (local.get $entry)) (i32.const 1)))
      (local.set $entry (i32.add (local.get $tables) (i32.and (i32.wrap_i64 (i64.shr_u (local.get $word) (i64.const 22))) (i32.const 1020))))
      (i32.store offset=3072 (local.get $entry) (i32.add (i32.load offset=3072 (local.get $entry)) (i32.const 1)))
      (local.set $entry (i32.add (local.get $tables) (i32.and (i32.wrap_i64 (i64.shr_u (local.get $word) (i64.const 30))) (i32.const 1020))))
      (i32.store (local.get $entry) (i32.add (i32.load (local.get $entry)) (i32.const 1)))
      (local.set $entry (i32.add (local.get $tables) (i32.and (i32.wrap_i64 (i64.shr_u (local.get $word) (i64.const 38))) (i32.const 1020))))
      (i32.store offset=1024 (local.get $entry) (i32.add (i32.load offset=1024 (local.get $entry)) (i32.const 1)))
      (local.set $entry (i32.add (local.get $tables) (i32.and (i32.wrap_i64 (i64.shr_u (local.get $word) (i64.const 46))) (i32.const 1020))))
      (i32.store offset=2048 (local.get $entry) (i32.add (i32.load offset=2048 (local.get $entry)) (i32.const 1)))
      (local.set $entry (i32.add (local.get $tables) (i32.and (i32.wrap_i64 (i64.shr_u (local.get $word) (i64.const 54))) (i32.const 1020))))
      (i32.store offset=3072 (local.get $entry) (i32.add (i32.load offset=3072 (local.get $entry)) (i32.const 1)))
      (local.set $at (i32.add (local.get $at) (i32.const 8)))
      (br_if $words (i32.lt_u (local.get $at) (local.get $end)))))

  ;; The sum of the weights of all counts, in four parts as the twin adds them up. Makes the tables zero again.
  (func $takeSum (param $tables i32) (param $weights i32) (result f64)
    (local $end i32) (local $counts v128) (local $s0 f64) (local $s1 f64) (local $s2 f64) (local $s3 f64)
    (local.set $end (i32.add (local.get $tables) (i32.const 1024)))
    (loop $values
      (local.set $counts (i32x4.add
        (i32x4.add (v128.load (local.get $tables)) (v128.load offset=1024 (local.get $tables)))
        (i32x4.add (v128.load offset=2048 (local.get $tables)) (v128.load offset=3072 (local.get $tables)))))
      (v128.store (local.get $tables) (v128.const i64x2 0 0))
      (v128.store offset=1024 (local.get $tables) (v128.const i64x2 0 0))
      (v128.store offset=2048 (local.get $tables) (v128.const i64x2 0 0))
      (v128.store offset=3072 (local.get $tables) (v128.const i64x2 0 0))
      (local.set $counts (i32x4.shl (local.get $counts) (i32.const 3)))
      (local.set $s0 (f64.add (local.get $s0)
        (f64.load (i32.add (local.get $weights) (i32x4.extract_lane 0 (local.get $counts))))))
      (local.set $s1 (f64.add (local.get $s1)
        (f64.load (i32.add (local.get $weights) (i32x4.extract_lane 1 (local.get $counts))))))
      (local.set $s2 (f64.add (local.get $s2)
        (f64.load (i32.add (local.get $weights) (i32x4.extract_lane 2 (local.get $counts))))))
      (local.set $s3 (f64.add (local.get $s3)
        (f64.load (i32.add (local.get $weights) (i32x4.extract_lane 3 (local.get $counts))))))
      (local.set $tables (i32.add (local.get $tables) (i32.const 16)))
      (br_if $values (i32.lt_u (local.get $tables) (local.get $end))))
    (f64.add (f64.add (local.get $s0) (local.get $s1)) (f64.add (local.get $s2) (local.get $s3))))

  ;; Writes the XXH64 of each page to $out, 8 bytes each.
  (func (export "xxh64")
    (param $at i32) (param $end i32) (param $page i32) (param $seed i64) (param $out i32)
    (local $stop i32) (local $h i64) (local $p1 i64) (local $p2 i64)
    (local $v1 i64) (local $v2 i64) (local $v3 i64) (local $v4 i64)
    (local.set $p1 (i64.const 0x9e3779b185ebca87))
    (local.set $p2 (i64.const 0xc2b2ae3d27d4eb4f))
    (loop $pages
      (local.set $stop (i32.add (local.get $at) (local.get $page)))
      (local.set $v1 (i64.add (local.get $seed) (i64.add (local.get $p1) (local.get $p2))))
      (local.set $v2 (i64.add (local.get $seed) (local.get $p2)))
      (local.set $v3 (local.get $seed))
      (local.set $v4 (i64.sub (local.get $seed) (local.get $p1)))
      (loop $stripes
        (local.set $v1 (i64.mul (i64.rotl (i64.add (local.get $v1)
          (i64.mul (i64.load (local.get $at)) (local.get $p2))) (i64.const 31)) (local.get $p1)))
        (local.set $v2 (i64.mul (i64.rotl (i64.add (local.get $v2)
          (i64.mul (i64.load offset=8 (local.get $at)) (local.get $p2))) (i64.const 31)) (local.get $p1)))
        (local.set $v3 (i64.mul (i64.rotl (i64.add (local.get $v3)
          (i64.mul (i64.load offset=16 (local.get $at)) (local.get $p2))) (i64.const 31)) (local.get $p1)))
        (local.set $v4 (i64.mul (i64.rotl (i64.add (local.get $v4)
          (i64.mul (i64.load offset=24 (local.get $at)) (local.get $p2))) (i64.const 31)) (local.get $p1)))
        (local.set $at (i32.add (local.get $at) (i32.const 32)))
        (br_if $stripes (i32.lt_u (local.get $at) (local.get $stop))))
      (local.set $h (i64.add
        (i64.add (i64.rotl (local.get $v1) (i64.const 1)) (i64.rotl (local.get $v2) (i64.const 7)))
        (i64.add (i64.rotl (local.get $v3) (i64.const 12)) (i64.rotl (local.get $v4) (i64.const 18)))))
      (local.set $h (i64.add (i64.mul (i64.xor (local.get $h)
        (i64.mul (i64.rotl (i64.mul (local.get $v1) (local.get $p2)) (i64.const 31)) (local.get $p1)))
        (local.get $p1)) (i64.const 0x85ebca77c2b2ae63)))
      (local.set $h (i64.add (i64.mul (i64.xor (local.get $h)
        (i64.mul (i64.rotl (i64.mul (local.get $v2) (local.get $p2)) (i64.const 31)) (local.get $p1)))
        (local.get $p1)) (i64.const 0x85ebca77c2b2ae63)))
      (local.set $h (i64.add (i64.mul (i64.xor (local.get $h)
        (i64.mul (i64.rotl (i64.mul (local.get $v3) (local.get $p2)) (i64.const 31)) (local.get $p1)))
        (local.get $p1)) (i64.const 0x85ebca77c2b2ae63)))
      (local.set $h (i64.add (i64.mul (i64.xor (local.get $h)
        (i64.mul (i64.rotl (i64.mul (local.get $v4) (local.get $p2)) (i64.const 31)) (local.get $p1)))
        (local.get $p1)) (i64.const 0x85ebca77c2b2ae63)))
      (local.set $h (i64.add (local.get $h) (i64.extend_i32_u (local.get $page))))
      ;; No tail: pages are whole stripes.
      (local.set $h (i64.mul (i64.xor (local.get $h) (i64.shr_u (local.get $h) (i64.const 33))) (local.get $p2)))
      (local.set $h (i64.mul (i64.xor (local.get $h) (i64.shr_u (local.get $h) (i64.const 29)))
        (i64.const 0x165667b19e3779f9)))
      (i64.store (local.get $out) (i64.xor (local.get $h) (i64.shr_u (local.get $h) (i64.const 32))))
      (local.set $out (i32.add (local.get $out) (i32.const 8)))
      (br_if $pages (i32.lt_u (local.get $at) (local.get $end)))))

  ;; Writes the CRC-32 of each page to $out, 4 bytes each. 16 bytes a turn ("slicing by 16").
  ;;   $tables  16 tables of 256 words: table t has the CRC of each byte with t zero bytes behind it
  (func (export "crc32")
    (param $at i32) (param $end i32) (param $page i32) (param $tables i32) (param $out i32)
    (local $stop i32) (local $crc i32) (local $a i32) (local $b i32) (local $c i32) (local $d i32)
    (loop $pages
      (local.set $stop (i32.add (local.get $at) (local.get $page)))
      (local.set $crc (i32.const -1))
      (loop $bytes
        (local.set $a (i32.xor (local.get $crc) (i32.load (local.get $at))))
        (local.set $b (i32.load offset=4 (local.get $at)))
        (local.set $c (i32.load offset=8 (local.get $at)))
        (local.set $d (i32.load offset=12 (local.get $at)))
        (local.set $crc (i32.xor
          (i32.xor
          (i32.xor
            (i32.xor
              (i32.load offset=15360 (i32.add (local.get $tables) (i32.shl (i32.and (local.get $a) (i32.const 255)) (i32.const 2))))
              (i32.load offset=14336 (i32.add (local.get $tables) (i32.and (i32.shr_u (local.get $a) (i32.const 6)) (i32.const 1020)))))
            (i32.xor
              (i32.load offset=13312 (i32.add (local.get $tables) (i32.and (i32.shr_u (local.get $a) (i32.const 14)) (i32.const 1020))))
              (i32.load offset=12288 (i32.add (local.get $tables) (i32.shl (i32.shr_u (local.get $a) (i32.const 24)) (i32.const 2))))))
          (i32.xor
            (i32.xor
              (i32.load offset=11264 (i32.add (local.get $tables) (i32.shl (i32.and (local.get $b) (i32.const 255)) (i32.const 2))))
              (i32.load offset=10240 (i32.add (local.get $tables) (i32.and (i32.shr_u (local.get $b) (i32.const 6)) (i32.const 1020)))))
            (i32.xor
              (i32.load offset=9216 (i32.add (local.get $tables) (i32.and (i32.shr_u (local.get $b) (i32.const 14)) (i32.const 1020))))
              (i32.load offset=8192 (i32.add (local.get $tables) (i32.shl (i32.shr_u (local.get $b) (i32.const 24)) (i32.const 2)))))))
          (i32.xor
          (i32.xor
            (i32.xor
              (i32.load offset=7168 (i32.add (local.get $tables) (i32.shl (i32.and (local.get $c) (i32.const 255)) (i32.const 2))))
              (i32.load offset=6144 (i32.add (local.get $tables) (i32.and (i32.shr_u (local.get $c) (i32.const 6)) (i32.const 1020)))))
            (i32.xor
              (i32.load offset=5120 (i32.add (local.get $tables) (i32.and (i32.shr_u (local.get $c) (i32.const 14)) (i32.const 1020))))
              (i32.load offset=4096 (i32.add (local.get $tables) (i32.shl (i32.shr_u (local.get $c) (i32.const 24)) (i32.const 2))))))
          (i32.xor
            (i32.xor
              (i32.load offset=3072 (i32.add (local.get $tables) (i32.shl (i32.and (local.get $d) (i32.const 255)) (i32.const 2))))
              (i32.load offset=2048 (i32.add (local.get $tables) (i32.and (i32.shr_u (local.get $d) (i32.const 6)) (i32.const 1020)))))
            (i32.xor
              (i32.load offset=1024 (i32.add (local.get $tables) (i32.and (i32.shr_u (local.get $d) (i32.const 14)) (i32.const 1020))))
              (i32.load (i32.add (local.get $tables) (i32.shl (i32.shr_u (local.get $d) (i32.const 24)) (i32.const 2)))))))))
        (local.set $at (i32.add (local.get $at) (i32.const 16)))
        (br_if $bytes (i32.lt_u (local.get $at) (local.get $stop))))
      (i32.store (local.get $out) (i32.xor (local.get $crc) (i32.const -1)))
      (local.set $out (i32.add (local.get $out) (i32.const 4)))
      (br_if $pages (i32.lt_u (local.get $at) (local.get $end))))))
