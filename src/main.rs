//! Entry point: arguments to `app::main`, nothing else.

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    mizzen::app::main(std::env::args())
}
