//! Amounts of cpu, ram, disk and GPUs. Rounding up happens at the door (config); inside there are whole units.

use std::fmt;

use crate::{BadField, wire};

/// Largest amount of any resource that is believed: far above any machine, far below overflow of a sum.
pub const AMOUNT_MAX: u64 = 1 << 40;

/// What the program that runs a task needs beside it, in MiB of memory: a host keeps so much more for each task, and
/// a task's limit is so much higher. Measured: 250 KiB are charged for an idle executor, 384 KiB where it holds a lease.
pub const EXECUTOR_RAM_MIB: u64 = 1;

/// An amount of each resource.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu_milli: u64,
    /// MiB of memory.
    pub ram_mib: u64,
    /// MiB of disk.
    pub disk_mib: u64,
    /// Whole devices.
    pub gpus: u64,
}

impl Resources {
    /// The sum; amounts are bounded by [`AMOUNT_MAX`], so it saturates only on absurd data.
    pub fn plus(self, other: Self) -> Self {
        self.zip(other, u64::saturating_add)
    }

    /// The difference, or `None` where any part would be negative.
    pub fn minus(self, other: Self) -> Option<Self> {
        other.fits_in(&self).then(|| self.zip(other, |a, b| a - b))
    }

    /// The difference, zero where it would be negative.
    pub fn minus_or_zero(self, other: Self) -> Self {
        self.zip(other, u64::saturating_sub)
    }

    /// Whether every part is at most the other's.
    pub fn fits_in(&self, room: &Self) -> bool {
        self.cpu_milli <= room.cpu_milli
            && self.ram_mib <= room.ram_mib
            && self.disk_mib <= room.disk_mib
            && self.gpus <= room.gpus
    }

    /// The larger part of each.
    pub fn max(self, other: Self) -> Self {
        self.zip(other, u64::max)
    }

    /// The smaller part of each.
    pub fn min(self, other: Self) -> Self {
        self.zip(other, u64::min)
    }

    /// So many times as much.
    pub fn times(self, count: u32) -> Self {
        self.zip(self, |amount, _| amount.saturating_mul(u64::from(count)))
    }

    fn zip(self, other: Self, f: impl Fn(u64, u64) -> u64) -> Self {
        Resources {
            cpu_milli: f(self.cpu_milli, other.cpu_milli),
            ram_mib: f(self.ram_mib, other.ram_mib),
            disk_mib: f(self.disk_mib, other.disk_mib),
            gpus: f(self.gpus, other.gpus),
        }
    }
}

impl TryFrom<&wire::Resources> for Resources {
    type Error = BadField;
    fn try_from(r: &wire::Resources) -> Result<Self, BadField> {
        for (field, amount) in [("cpu", r.cpu_milli), ("ram", r.ram_mib), ("disk", r.disk_mib)] {
            if amount > AMOUNT_MAX {
                return Err(BadField::new(field, format!("is {amount}, more than any machine has")));
            }
        }
        Ok(Resources {
            cpu_milli: r.cpu_milli,
            ram_mib: r.ram_mib,
            disk_mib: r.disk_mib,
            gpus: u64::from(r.gpus),
        })
    }
}

impl From<Resources> for wire::Resources {
    fn from(r: Resources) -> Self {
        wire::Resources {
            cpu_milli: r.cpu_milli,
            ram_mib: r.ram_mib,
            disk_mib: r.disk_mib,
            gpus: u32::try_from(r.gpus).unwrap_or(u32::MAX),
        }
    }
}

/// MiB as people write it: `128 MiB`, `3.2 GiB`.
pub fn mib(amount: u64) -> String {
    if amount < 1024 { format!("{amount} MiB") } else { format!("{:.1} GiB", amount as f64 / 1024.0) }
}

/// Thousandths of a core as people write it: `0.25`, `4.0`.
pub fn cores(milli: u64) -> String {
    let text = format!("{}.{:03}", milli / 1000, milli % 1000);
    let trimmed = text.trim_end_matches('0');
    if trimmed.ends_with('.') { format!("{trimmed}0") } else { trimmed.to_owned() }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cpu, {} ram, {} disk", cores(self.cpu_milli), mib(self.ram_mib), mib(self.disk_mib))?;
        if self.gpus > 0 { write!(f, ", {} gpu", self.gpus) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_add_and_subtract() {
        let a = Resources { cpu_milli: 1500, ram_mib: 2048, disk_mib: 10, gpus: 1 };
        let b = Resources { cpu_milli: 250, ram_mib: 128, disk_mib: 10, gpus: 0 };
        assert_eq!(a.minus(b).unwrap().plus(b), a);
        assert_eq!(b.minus(a), None);
        assert_eq!(a.to_string(), "1.5 cpu, 2.0 GiB ram, 10 MiB disk, 1 gpu");
    }
}
