//! What one file may cost. A file comes from a person, so every figure is far above what people write.

use crate::problem::{Fault, Issue};
use crate::source::Span;

/// Longest file, in bytes.
pub(crate) const FILE_BYTES_MAX: usize = 4 << 20;
/// Deepest nesting of brackets, and of indented blocks, in a file.
pub(crate) const NESTING_MAX: usize = 100;
/// Longest chain of operators and names without a comma: what can make a syntax tree deep without brackets.
pub(crate) const CHAIN_MAX: usize = 4_000;
/// Steps of evaluation: expressions, fields, template references.
const STEPS_MAX: u64 = 5_000_000;
/// All memory that values ever take, in bytes; nothing is given back before the end.
const MEMORY_BYTES_MAX: usize = 256 << 20;
/// Deepest recursion of the evaluator and of nested values.
const DEPTH_MAX: usize = 2 * CHAIN_MAX;
/// Longest single text, in bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 1 << 20;
/// Stack of the thread that reads a file, in bytes; taken from the system only as far as it is used.
pub(crate) const STACK_BYTES: usize = 256 << 20;
/// How deep one template may lead into another.
pub(crate) const TEMPLATE_DEPTH_MAX: usize = 50;

/// What is left of the limits.
pub(crate) struct Budget {
    steps: u64,
    bytes: usize,
    depth: usize,
}

impl Budget {
    pub(crate) fn new() -> Self {
        Budget { steps: STEPS_MAX, bytes: MEMORY_BYTES_MAX, depth: DEPTH_MAX }
    }

    /// One step of work.
    pub(crate) fn step(&mut self, span: Span) -> Result<(), Fault> {
        match self.steps.checked_sub(1) {
            Some(steps) => self.steps = steps,
            None => return Err(Issue::error(span, format!("the file needs more than {STEPS_MAX} steps"))),
        }
        Ok(())
    }

    /// `bytes` of memory, before they are taken.
    pub(crate) fn charge(&mut self, span: Span, bytes: usize) -> Result<(), Fault> {
        match self.bytes.checked_sub(bytes) {
            Some(left) => self.bytes = left,
            None => {
                let reason = format!("the file needs more than {} MiB of memory", MEMORY_BYTES_MAX >> 20);
                return Err(Issue::error(span, reason).hint("something in it grows very large here"));
            }
        }
        Ok(())
    }

    /// A text of `bytes`, before it is made.
    pub(crate) fn text(&mut self, span: Span, bytes: usize) -> Result<(), Fault> {
        if bytes > TEXT_BYTES_MAX {
            let reason = format!("this text would be longer than {} KiB", TEXT_BYTES_MAX >> 10);
            return Err(Issue::error(span, reason));
        }
        self.charge(span, bytes)
    }

    /// One level deeper; [`Budget::leave`] on the way out.
    pub(crate) fn enter(&mut self, span: Span) -> Result<(), Fault> {
        self.step(span)?;
        match self.depth.checked_sub(1) {
            Some(depth) => self.depth = depth,
            None => return Err(Issue::error(span, "this is nested too deeply")),
        }
        Ok(())
    }

    /// Ends what [`Budget::enter`] began.
    pub(crate) fn leave(&mut self) {
        self.depth += 1;
    }
}
