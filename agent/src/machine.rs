//! What the machine is and has: its ids, its capacity.

use std::path::Path;

use proto::wire;

use crate::options::Options;

/// Random id of this installation of the machine; made in `dir` where the machine has none.
pub fn machine_id(dir: &Path) -> std::io::Result<String> {
    let own = dir.join("machine-id");
    for path in [Path::new("/etc/machine-id"), Path::new("/var/lib/dbus/machine-id"), &own] {
        if let Ok(text) = std::fs::read_to_string(path)
            && !text.trim().is_empty()
            && text.trim() != "uninitialized"
        {
            return Ok(text.trim().to_owned());
        }
    }
    let id = uuid::Uuid::new_v4().simple().to_string();
    std::fs::write(&own, &id)?;
    Ok(id)
}

/// What the host offers: what was asked for, else what the machine has less a share for the machine itself.
pub fn capacity(options: &Options) -> std::io::Result<wire::Resources> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let info = rustix::system::sysinfo();
    let ram_mib = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit)) >> 20;
    let disk = rustix::fs::statvfs(&options.dir)?;
    let disk_mib = disk.f_blocks.saturating_mul(disk.f_frsize) >> 20;
    Ok(wire::Resources {
        cpu_milli: options.cpus.unwrap_or(cores * 1000),
        ram_mib: options.ram_mib.unwrap_or_else(|| less(ram_mib, 1024)),
        disk_mib: options.disk_mib.unwrap_or_else(|| less(disk_mib, 5120)),
        gpus: options.gpus,
    })
}

/// All but `reserve`, or half of what is small.
fn less(total: u64, reserve: u64) -> u64 {
    if total > 2 * reserve { total - reserve } else { total / 2 }
}
