//! Entry point: flags to `app::run`, exit codes, nothing else.
#![allow(missing_docs)]

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {}
