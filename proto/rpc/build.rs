//! Generates the tonic services over the messages of `proto`.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let descriptors = protox::compile(["services.proto", "raft.proto"], [".", ".."])?;
    tonic_prost_build::configure()
        .extern_path(".borealis", "::proto::wire")
        .extern_path(".borealis.raft", "::proto::wire::raft")
        .compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=.");
    println!("cargo:rerun-if-changed=../borealis");
    Ok(())
}
