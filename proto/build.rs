//! Generates the messages; `protox` stands in for protoc.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "borealis/job.proto",
        "borealis/status.proto",
        "borealis/agent.proto",
        "borealis/executor.proto",
        "borealis/command.proto",
        "borealis/state.proto",
        "borealis/api.proto",
        "borealis/raft.proto",
    ];
    let descriptors = protox::compile(files, ["."])?;
    prost_build::Config::new().bytes(["."]).btree_map(["."]).compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=borealis");
    Ok(())
}
