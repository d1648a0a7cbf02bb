//! Compiles `proto/` with protox (no protoc needed): Rust messages, the ADS client and server, and a descriptor
//! set for reflection, all into `OUT_DIR`.

use std::error::Error;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new("proto");
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();

    let mut compiler = protox::Compiler::new([root])?;
    compiler.include_imports(true).include_source_info(false).open_files(&files)?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;

    let mut config = prost_build::Config::new();
    config.enable_type_names().type_name_domain(["."], "type.googleapis.com");
    tonic_prost_build::configure()
        .btree_map(".")
        .include_file("protos.rs")
        .emit_rerun_if_changed(false)
        .compile_fds_with_config(compiler.file_descriptor_set(), config)?;
    if packs_relocations() {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    if let Some(script) = startup_layout(&out)? {
        println!("cargo:rustc-link-arg-bins=-Wl,-T,{}", script.display());
    }
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-env-changed=MIZZEN_LINK_ORDER");
    println!("cargo:rerun-if-changed=build.rs");
    Ok(())
}

/// Whether the system that builds, and so the one that runs it, has a loader that reads packed relocations: they
/// take 4 KB where plain ones take 600, all of which every process reads at start and keeps resident.
fn packs_relocations() -> bool {
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    let native = std::env::var("HOST").is_ok_and(|host| is("TARGET", &host));
    if !native || !is("CARGO_CFG_TARGET_OS", "linux") || !is("CARGO_CFG_TARGET_ENV", "gnu") {
        return false;
    }
    // `glibc 2.36` or later; what cannot be told is not packed.
    let Ok(answer) = std::process::Command::new("getconf").arg("GNU_LIBC_VERSION").output() else {
        return false;
    };
    let text = String::from_utf8_lossy(&answer.stdout);
    let version =
        text.trim().strip_prefix("glibc 2.").and_then(|minor| minor.split('.').next()?.parse::<u32>().ok());
    version.is_some_and(|minor| minor >= 36)
}

/// A linker script that places the functions of start-up and idling side by side, for release builds; lld and GNU
/// ld understand it. `src/startup.order` has their names, `tests/bench/startup_order.py` finds them. An idle
/// process keeps 64 KB around each page it ran resident: scattered, these functions cost five times their size.
/// `MIZZEN_LINK_ORDER=0` switches it off, for a linker that has no such scripts.
fn startup_layout(out: &Path) -> Result<Option<PathBuf>, Box<dyn Error>> {
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    if !is("PROFILE", "release") || is("OPT_LEVEL", "0") || is("MIZZEN_LINK_ORDER", "0") {
        return Ok(None);
    }
    // Other profiles are not built again for it.
    println!("cargo:rerun-if-changed=src/startup.order");
    let names = std::fs::read_to_string("src/startup.order")?;
    // What the compiler takes for cold has another prefix; some of it is run at every start.
    let sections: String =
        names.lines().map(|name| format!("*(.text.{name} .text.unlikely.{name})\n")).collect();
    let script = out.join("startup.ld");
    std::fs::write(
        &script,
        format!("SECTIONS {{ .text.startup_order : {{\n{sections}}} }} INSERT BEFORE .text;\n"),
    )?;
    Ok(Some(script))
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
