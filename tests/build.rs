//! Generates what only tests and benchmarks speak: the register map's service and a part of etcd's.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let descriptors = protox::compile(["registers.proto", "etcd.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}
