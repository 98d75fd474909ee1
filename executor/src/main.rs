//! The program `borealis-executor TASK_DIR`.
fn main() {}
