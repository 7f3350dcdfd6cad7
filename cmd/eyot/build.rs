//! A program that ends at a panic never unwinds: the tables for it, a tenth of the program, are left out when it is linked.

fn main() {
    println!("cargo::rerun-if-changed=no_unwind.ld");
    // Cargo does not tell what a panic does; the profile `dist`, where it ends the program, alone builds for size.
    if std::env::var("OPT_LEVEL").is_ok_and(|level| level == "z") {
        // Cargo runs this in the package's directory, the linker elsewhere.
        let script = std::env::current_dir().expect("there is a working directory").join("no_unwind.ld");
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{}", script.display());
    }
}
