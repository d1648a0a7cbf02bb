//! A whole proxied HTTP/1 connection, see `tests/support/http1_proxy.rs`.
#![no_main]

#[path = "../../support/http1_proxy.rs"]
mod http1_proxy;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| http1_proxy::run(data));
