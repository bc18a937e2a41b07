//! How the program is linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // A position-independent program corrects each pointer in its tables when it starts; as a list of 24 bytes a pointer
    // that is 1.6 MB of the memory of each process. Packed it is some 20 KB (`DT_RELR`; glibc 2.36, lld 15, GNU ld 2.38;
    // an older GNU ld only warns).
    let target = |name| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if target("OS") == "linux" && target("ENV") == "gnu" {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
