//! Clocks may jump; nothing that is said of time may follow them: nothing is older than the run itself.

use super::{Law, Seen};

#[derive(Default)]
pub(crate) struct Age;

impl Law for Age {
    fn look(&mut self, all: &[Seen]) -> Result<(), String> {
        for seen in all {
            if let Some(age) = seen.ages.iter().flatten().find(|age| **age > seen.now) {
                return Err(format!("node {} says {age:?} after {:?}", seen.node_id, seen.now));
            }
        }
        Ok(())
    }
}
