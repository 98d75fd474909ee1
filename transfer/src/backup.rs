//! A backup as a directory: its files, and a manifest that is written last. Without a manifest it is none.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use prost::Message as _;
use proto::wire::raft::BackupManifest;

use crate::{Error, bad, check_name, checksum, io, sync_dir};

/// The manifest's file name: a CRC-32C of four bytes, little-endian, then the message.
pub const MANIFEST: &str = "manifest";
/// The newest level of manifests that is known here.
const LEVEL: u32 = 1;

/// Makes a backup of a directory in which all files have arrived: writes the manifest, then gives it its name.
pub fn seal(arrived: &Path, manifest: &BackupManifest, name: &Path) -> Result<(), Error> {
    let body = manifest.encode_to_vec();
    let mut bytes = crc32c::crc32c(&body).to_le_bytes().to_vec();
    bytes.extend_from_slice(&body);
    let path = arrived.join(MANIFEST);
    let mut options = OpenOptions::new();
    let mut file: File = options
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(io("creating", &path))?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(io("writing", &path))?;
    sync_dir(arrived)?;
    if name.try_exists().map_err(io("looking at", name))? {
        return Err(bad(name.display().to_string(), "exists already; a backup is never written over"));
    }
    std::fs::rename(arrived, name).map_err(io("renaming", arrived))?;
    match name.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

/// What a backup says of itself. Its files are not looked at.
pub fn read_manifest(dir: &Path) -> Result<BackupManifest, Error> {
    let path = dir.join(MANIFEST);
    let bytes = std::fs::read(&path).map_err(io("reading", &path))?;
    let wrong = |why: &str| bad(path.display().to_string(), why);
    let body = bytes.get(4..).ok_or_else(|| wrong("is cut off"))?;
    if crc32c::crc32c(body).to_le_bytes() != bytes[..4] {
        return Err(wrong("fails its checksum"));
    }
    let manifest = BackupManifest::decode(body).map_err(|e| wrong(&format!("cannot be read: {e}")))?;
    if manifest.level > LEVEL {
        let what = path.display().to_string();
        return Err(Error::Level { what, found: manifest.level, known: LEVEL });
    }
    let Some(snapshot) = &manifest.snapshot else { return Err(wrong("lists no files")) };
    snapshot.files.iter().try_for_each(|file| check_name(&file.name))?;
    Ok(manifest)
}

/// Reads the manifest and checks every file against it.
pub fn check(dir: &Path) -> Result<BackupManifest, Error> {
    let manifest = read_manifest(dir)?;
    for file in manifest.snapshot.iter().flat_map(|snapshot| &snapshot.files) {
        let path = dir.join(&file.name);
        if checksum(&path)? != (file.bytes, file.crc32c) {
            return Err(bad(
                path.display().to_string(),
                "is not what the manifest says: the backup is damaged",
            ));
        }
    }
    Ok(manifest)
}
