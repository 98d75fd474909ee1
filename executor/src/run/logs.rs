//! A process' output files, and their rotation.
//!
//! They lie in the sandbox, which belongs to the task: a task may put a link there to make a root executor write
//! elsewhere. So every step goes through an open directory and never through a link, and files are always new.
//! Rotation copies and truncates: what is written between the two is lost, and a process may run on if its
//! executor is gone, which a pipe would not allow.

use std::fs::File;
use std::io::{self, Seek as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{self, AtFlags, Mode, OFlags};

use super::note;
use crate::layout::Stream;

/// The two outputs of one run.
pub(super) struct Logs {
    directory: OwnedFd,
    files: [(Stream, File); 2],
    rotate_bytes: u64,
    backups: u32,
}

/// Most backups of one output.
const BACKUPS_MAX: u32 = 100;

pub(super) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(fs::open(path, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

fn enter(parent: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    match fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Err(e) if e != rustix::io::Errno::EXIST => return Err(e.into()),
        _ => {}
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(fs::openat(parent, name, flags, Mode::empty())?)
}

fn create(directory: &OwnedFd, name: &str) -> io::Result<File> {
    let flags =
        OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(fs::openat(directory, name, flags, Mode::from_raw_mode(0o644))?))
}

impl Logs {
    /// Makes `.logs/PROCESS/RUN/{stdout,stderr}` beneath the sandbox; the files belong to `owner`, so that the
    /// process may open them again as `/dev/stdout`.
    pub(super) fn create(
        sandbox: &OwnedFd,
        process: &str,
        run: u32,
        owner: Option<(u32, u32)>,
        rotate: (u64, u32),
    ) -> io::Result<Logs> {
        let logs = enter(sandbox, ".logs")?;
        let directory = enter(&enter(&logs, process)?, &run.to_string())?;
        let open = |stream: Stream| -> io::Result<(Stream, File)> {
            let file = create(&directory, stream.file_name())?;
            if let Some((uid, gid)) = owner {
                std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
            }
            Ok((stream, file))
        };
        let files = [open(Stream::Stdout)?, open(Stream::Stderr)?];
        Ok(Logs { directory, files, rotate_bytes: rotate.0, backups: rotate.1.min(BACKUPS_MAX) })
    }

    /// A handle for the process.
    pub(super) fn output(&self, stream: Stream) -> io::Result<File> {
        self.files[usize::from(stream == Stream::Stderr)].1.try_clone()
    }

    pub(super) fn rotates(&self) -> bool {
        self.rotate_bytes > 0
    }

    /// Moves an output that has grown too large to `stdout.1`, and the older ones one further.
    pub(super) fn rotate(&mut self) {
        if !self.rotates() {
            return;
        }
        for (stream, file) in &mut self.files {
            if file.metadata().is_ok_and(|data| data.len() > self.rotate_bytes)
                && let Err(why) = rotate_one(&self.directory, stream.file_name(), file, self.backups)
            {
                note(format_args!("cannot rotate {}: {why}", stream.file_name()));
            }
        }
    }
}

fn rotate_one(directory: &OwnedFd, name: &str, file: &mut File, backups: u32) -> io::Result<()> {
    if backups > 0 {
        let backup = |number: u32| format!("{name}.{number}");
        for number in (1..backups).rev() {
            match fs::renameat(directory, backup(number), directory.as_fd(), backup(number + 1)) {
                Err(e) if e != rustix::io::Errno::NOENT => return Err(e.into()),
                _ => {}
            }
        }
        match fs::unlinkat(directory, backup(1), AtFlags::empty()) {
            Err(e) if e != rustix::io::Errno::NOENT => return Err(e.into()),
            _ => {}
        }
        let mut copy = create(directory, &backup(1))?;
        file.rewind()?;
        io::copy(file, &mut copy)?;
    }
    file.set_len(0)
}
