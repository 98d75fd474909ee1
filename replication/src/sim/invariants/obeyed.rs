//! Whoever is commanded obeys one leader after the other: once a leader was obeyed, none that was obeyed before it is
//! obeyed again. This law does not compare leaders, so it holds of any rule by which they are compared.

/// A leader: its term and its node.
pub(crate) type Leader = (u64, u64);

#[derive(Default)]
pub(crate) struct Obeyed(Vec<Leader>);

impl Obeyed {
    /// An order of `leader` is carried out.
    pub(crate) fn look(&mut self, leader: Leader) -> Result<(), String> {
        match self.0.iter().position(|before| *before == leader) {
            Some(at) if at + 1 < self.0.len() => Err(format!(
                "an order of leader {leader:?} was carried out after one of {:?}, which had followed it",
                self.0[at + 1]
            )),
            Some(_) => Ok(()),
            None => {
                self.0.push(leader);
                Ok(())
            }
        }
    }
}
