//! The table of a run with faults: each fault, how often it fired, what had to hold, whether it did.
//!
//! A row is declared before the run. A row whose fault never fired fails the run, as one that was broken does. Pure.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, ensure};

/// The rows, in the order in which they were declared.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
}

#[derive(Clone, Debug)]
struct Row {
    fault: String,
    invariant: String,
    fired: u64,
    breaches: Vec<String>,
    longest: Duration,
    remark: String,
}

impl Table {
    /// A row that must fire.
    pub fn declare(&mut self, fault: impl fmt::Display, invariant: &str) {
        self.rows.push(Row {
            fault: fault.to_string(),
            invariant: invariant.into(),
            fired: 0,
            breaches: vec![],
            longest: Duration::ZERO,
            remark: String::new(),
        });
    }

    fn row(&mut self, fault: impl fmt::Display) -> &mut Row {
        let fault = fault.to_string();
        let at = self.rows.iter().position(|row| row.fault == fault);
        &mut self.rows[at.unwrap_or_else(|| panic!("no row was declared for {fault:?}"))]
    }

    /// It fired and what had to hold did, after so long.
    pub fn held(&mut self, fault: impl fmt::Display, after: Duration) {
        let row = self.row(fault);
        row.fired += 1;
        row.longest = row.longest.max(after);
    }

    /// A few words for the row's result.
    pub fn remark(&mut self, fault: impl fmt::Display, remark: impl fmt::Display) {
        self.row(fault).remark = remark.to_string();
    }

    /// It fired so often, and `found` says what was broken.
    pub fn judged(&mut self, fault: impl fmt::Display, fired: u64, found: Result<String>) {
        let row = self.row(fault);
        row.fired += fired;
        match found {
            Ok(remark) => row.remark = remark,
            Err(why) => row.breaches.push(format!("{why:#}")),
        }
    }

    /// An error that names each row that was broken or never fired.
    pub fn verdict(&self) -> Result<()> {
        let bad: Vec<String> = self.rows.iter().filter_map(Row::complaint).collect();
        ensure!(!self.rows.is_empty(), "a table without rows shows nothing");
        ensure!(bad.is_empty(), "{} of {} rows failed:\n{}", bad.len(), self.rows.len(), bad.join("\n"));
        Ok(())
    }
}

impl Row {
    fn complaint(&self) -> Option<String> {
        if let Some(why) = self.breaches.first() {
            return Some(format!("{}: {}: {why}", self.fault, self.invariant));
        }
        (self.fired == 0).then(|| format!("{}: never fired, so nothing is known", self.fault))
    }

    fn result(&self) -> String {
        if !self.breaches.is_empty() {
            return format!("BROKEN {} times", self.breaches.len());
        }
        if self.fired == 0 {
            return "NEVER FIRED".into();
        }
        let longest = match self.longest {
            Duration::ZERO => String::new(),
            longest => format!(", longest {} ms", longest.as_millis()),
        };
        let remark = if self.remark.is_empty() { String::new() } else { format!(", {}", self.remark) };
        format!("held{longest}{remark}")
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wide = |of: fn(&Row) -> &str, least: usize| {
            self.rows.iter().map(|row| of(row).len()).max().unwrap_or(0).max(least)
        };
        let (fault, invariant) = (wide(|row| &row.fault, 5), wide(|row| &row.invariant, 9));
        writeln!(f, "{:fault$} | fired | {:invariant$} | result", "fault", "invariant")?;
        for row in &self.rows {
            let (name, holds) = (&row.fault, &row.invariant);
            writeln!(f, "{name:fault$} | {:5} | {holds:invariant$} | {}", row.fired, row.result())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_never_fired_or_was_broken_fails_the_run() {
        let mut table = Table::default();
        assert!(table.verdict().is_err(), "no rows");
        table.declare("kill", "goes on");
        table.declare("cut", "goes on");
        table.held("kill", Duration::from_millis(7));
        assert!(table.verdict().unwrap_err().to_string().contains("cut: never fired"));
        table.held("cut", Duration::ZERO);
        table.remark("cut", "twice");
        assert!(table.verdict().is_ok());
        let printed = table.to_string();
        assert!(printed.contains("kill  |     1 | goes on   | held, longest 7 ms"), "{printed}");
        table.judged("cut", 1, Err(anyhow::anyhow!("it stood")));
        assert!(table.verdict().unwrap_err().to_string().contains("cut: goes on: it stood"));
        assert!(table.to_string().contains("BROKEN 1 times"));
    }
}
