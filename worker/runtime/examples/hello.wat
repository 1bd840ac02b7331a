;; A service: prints a greeting, then a line each second for ever.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "hello from wasm\n")
  (data (i32.const 96) "still here\n")
  (func $print (param $text i32) (param $length i32)
    (i32.store (i32.const 0) (local.get $text))
    (i32.store (i32.const 4) (local.get $length))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16))))
  ;; A subscription of 48 bytes at 128: userdata, tag 0 (clock), clock 1 (monotonic), 1 s, precision, flags 0.
  (func $sleep
    (i32.store (i32.const 144) (i32.const 1))
    (i64.store (i32.const 152) (i64.const 1000000000))
    (drop (call $poll (i32.const 128) (i32.const 192) (i32.const 1) (i32.const 20))))
  (func (export "_start")
    (call $print (i32.const 64) (i32.const 16))
    (loop $again
      (call $sleep)
      (call $print (i32.const 96) (i32.const 11))
      (br $again))))
