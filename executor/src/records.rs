//! Append-only files of framed records, and the same frames on a socket.
//!
//! A frame is `FF B0`, format level (u16), length (u32), CRC-32C of level, length and payload (u32), payload; all
//! little-endian. A frame that was cut off by a crash is a *torn tail*: reported, and cut by [`Writer::open_append`].
//! A bad frame with a good one somewhere behind it is [`Corrupt`]: that was not a crash. Damage to the very last
//! record cannot be told from a torn tail; who must know keeps a synced mark of its own.
//!
//! Not here: what a record means.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Largest payload of one record, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 16 << 20;
/// Bytes of a frame before its payload.
pub const HEADER_BYTES: usize = 12;
/// Level of the frame itself; what is inside has its own.
const FRAME_LEVEL: u16 = 1;
/// `FF` is in no UTF-8 text, so text inside a torn record is never taken for a record.
const MAGIC: [u8; 2] = [0xFF, 0xB0];

/// The file as far as it can be believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// Payloads, in the order written.
    pub records: Vec<Vec<u8>>,
    /// Bytes of a record at the end that was never completely written; 0 = none.
    pub torn_bytes: u64,
}

/// A record that was once good is not good any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{path}: the record at byte {offset} is damaged ({problem}), and good records follow it; the disk or another program changed the file, so set it aside and let its owner start anew"
)]
pub struct Corrupt {
    /// File.
    pub path: String,
    /// Where the bad record begins.
    pub offset: u64,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// Why a record file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// File.
        path: String,
        /// What it said.
        source: io::Error,
    },
    /// See [`Corrupt`].
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// More than [`PAYLOAD_BYTES_MAX`].
    #[error("{path}: a record of {bytes} bytes is larger than {PAYLOAD_BYTES_MAX}")]
    TooLarge {
        /// File.
        path: String,
        /// Of the payload.
        bytes: usize,
    },
    /// An earlier write or sync failed; what is on disk is not known, so nothing more is written.
    #[error("{path}: an earlier write failed and could not be undone; open the file anew")]
    Spoiled {
        /// File.
        path: String,
    },
}

impl Error {
    /// Whether the file does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.display().to_string();
    move |source| Error::Io { path, source }
}

/// One writer of one file. Two writers of one file are a mistake that this type cannot see.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: File,
    length: u64,
    spoiled: bool,
}

impl Writer {
    /// Makes a new, empty file; it must not exist. Mode 0644 less the umask.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(io_at(path))?;
        Ok(Writer { path: path.into(), file, length: 0, spoiled: false })
    }

    /// Opens an existing file, cuts a torn tail, and says what was in it.
    pub fn open_append(path: &Path) -> Result<(Self, Read), Error> {
        let mut file = OpenOptions::new().read(true).write(true).open(path).map_err(io_at(path))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io_at(path))?;
        let read = split(path, &bytes)?;
        let length = bytes.len() as u64 - read.torn_bytes;
        if read.torn_bytes > 0 {
            file.set_len(length).and_then(|()| file.sync_data()).map_err(io_at(path))?;
        }
        file.seek(SeekFrom::Start(length)).map_err(io_at(path))?;
        Ok((Writer { path: path.into(), file, length, spoiled: false }, read))
    }

    /// Writes one record; it survives the death of this process, and after [`Self::sync`] that of the machine.
    /// A record that could be written in part only (disk full) is undone.
    pub fn append(&mut self, payload: &[u8]) -> Result<(), Error> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(Error::TooLarge { path: self.path.display().to_string(), bytes: payload.len() });
        }
        self.append_frames(&frame(payload))
    }

    /// Writes what [`add_frame`] has put together, all at once or not at all.
    pub fn append_frames(&mut self, frames: &[u8]) -> Result<(), Error> {
        if self.spoiled {
            return Err(Error::Spoiled { path: self.path.display().to_string() });
        }
        if let Err(source) = self.file.write_all(frames) {
            let undone =
                self.file.set_len(self.length).and_then(|()| self.file.seek(SeekFrom::Start(self.length)));
            self.spoiled = undone.is_err();
            return Err(io_at(&self.path)(source));
        }
        self.length += frames.len() as u64;
        Ok(())
    }

    /// Returns when everything appended is on the disk. After a failure nothing more is accepted: the kernel may
    /// have dropped the pages, so a later success would mean nothing.
    pub fn sync(&mut self) -> Result<(), Error> {
        if self.spoiled {
            return Err(Error::Spoiled { path: self.path.display().to_string() });
        }
        self.file.sync_data().map_err(|source| {
            self.spoiled = true;
            io_at(&self.path)(source)
        })
    }

    /// Bytes of the file.
    pub fn length(&self) -> u64 {
        self.length
    }
}

/// Reads a whole file of records. A missing file is an [`Error::Io`] with [`Error::is_not_found`].
pub fn read_all(path: &Path) -> Result<Read, Error> {
    let bytes = std::fs::read(path).map_err(io_at(path))?;
    Ok(split(path, &bytes)?)
}

/// Shows every payload of a file of records to `take`, in the order written; answers the bytes of a torn record at
/// the end.
pub fn read_each(path: &Path, take: &mut dyn FnMut(&[u8])) -> Result<u64, Error> {
    let bytes = std::fs::read(path).map_err(io_at(path))?;
    Ok(each(path, &bytes, take)?)
}

/// Puts a file of exactly one record in place of `path`, whole or not at all, synced.
pub fn write_one(path: &Path, payload: &[u8]) -> Result<(), Error> {
    let new = path.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_at(&new)(e)),
        _ => {}
    }
    let mut writer = Writer::create(&new)?;
    writer.append(payload)?;
    writer.sync()?;
    std::fs::rename(&new, path).map_err(io_at(path))?;
    sync_parent(path)
}

/// Reads a file of exactly one record.
pub fn read_one(path: &Path) -> Result<Vec<u8>, Error> {
    let Read { mut records, torn_bytes } = read_all(path)?;
    let count = records.len();
    match records.pop() {
        Some(record) if count == 1 && torn_bytes == 0 => Ok(record),
        _ => {
            let problem =
                format!("should hold one record, and holds {count} and {torn_bytes} bytes of a torn one");
            Err(io_at(path)(io::Error::new(io::ErrorKind::InvalidData, problem)))
        }
    }
}

/// Syncs the directory that `path` is in, so that its name survives the machine.
pub fn sync_parent(path: &Path) -> Result<(), Error> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(io_at(parent))
}

/// Writes one frame to a stream.
pub fn write_frame(stream: &mut impl Write, payload: &[u8]) -> io::Result<()> {
    stream.write_all(&frame(payload))?;
    stream.flush()
}

/// Reads one frame of at most `bytes_max` payload from a stream.
pub fn read_frame(stream: &mut impl io::Read, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header)?;
    let length = payload_length(&header).ok_or_else(|| invalid("not a frame"))?;
    if length > bytes_max {
        return Err(invalid("a frame larger than allowed"));
    }
    let mut bytes = header.to_vec();
    bytes.resize(HEADER_BYTES + length, 0);
    stream.read_exact(&mut bytes[HEADER_BYTES..])?;
    match parse(&bytes) {
        Parsed::Good(payload) => Ok(payload.to_vec()),
        Parsed::Short | Parsed::Bad(_) => Err(invalid("a frame with a wrong checksum")),
    }
}

/// The frame of `payload` as bytes.
pub fn frame(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    add_frame(&mut bytes, |bytes| bytes.extend_from_slice(payload));
    bytes
}

/// Adds a frame to `bytes` whose payload `write` appends, so that it is written once.
pub fn add_frame(bytes: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let begin = bytes.len();
    bytes.extend_from_slice(&[0; HEADER_BYTES]);
    write(bytes);
    let (header, payload) = bytes[begin..].split_at_mut(HEADER_BYTES);
    header[..2].copy_from_slice(&MAGIC);
    header[2..4].copy_from_slice(&FRAME_LEVEL.to_le_bytes());
    header[4..8].copy_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[2..8]), payload);
    header[8..].copy_from_slice(&crc.to_le_bytes());
}

/// The first frame in `bytes`, as far as they go: `Ok(None)` = more bytes are needed.
pub fn take_frame(bytes: &[u8], bytes_max: usize) -> io::Result<Option<&[u8]>> {
    if bytes.len() >= HEADER_BYTES {
        let length = payload_length(bytes).ok_or_else(|| invalid("not a frame"))?;
        if length > bytes_max {
            return Err(invalid("a frame larger than allowed"));
        }
    }
    match parse(bytes) {
        Parsed::Good(payload) => Ok(Some(payload)),
        Parsed::Short => Ok(None),
        Parsed::Bad(problem) => Err(invalid(problem)),
    }
}

fn invalid(problem: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

enum Parsed<'a> {
    Good(&'a [u8]),
    /// A good beginning, not all of it there.
    Short,
    Bad(&'static str),
}

/// Length that a header claims, or `None` if it is not a header.
fn payload_length(header: &[u8]) -> Option<usize> {
    let header: &[u8; HEADER_BYTES] = header.get(..HEADER_BYTES)?.try_into().ok()?;
    if header[..2] != MAGIC {
        return None;
    }
    let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
    (length <= PAYLOAD_BYTES_MAX).then_some(length)
}

fn parse(bytes: &[u8]) -> Parsed<'_> {
    let seen = bytes.len().min(MAGIC.len());
    if bytes[..seen] != MAGIC[..seen] {
        return Parsed::Bad("no record begins there");
    }
    if bytes.len() < HEADER_BYTES {
        return Parsed::Short;
    }
    let Some(length) = payload_length(bytes) else { return Parsed::Bad("its length is absurd") };
    let Some(payload) = bytes.get(HEADER_BYTES..HEADER_BYTES + length) else { return Parsed::Short };
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[2..8]), payload);
    if bytes[8..HEADER_BYTES] != crc.to_le_bytes() {
        return Parsed::Bad("its checksum is wrong");
    }
    if bytes[2..4] != FRAME_LEVEL.to_le_bytes() {
        return Parsed::Bad("its format level is not known here");
    }
    Parsed::Good(payload)
}

fn split(path: &Path, bytes: &[u8]) -> Result<Read, Corrupt> {
    let mut records = Vec::new();
    let torn_bytes = each(path, bytes, &mut |payload| records.push(payload.to_vec()))?;
    Ok(Read { records, torn_bytes })
}

fn each(path: &Path, bytes: &[u8], take: &mut dyn FnMut(&[u8])) -> Result<u64, Corrupt> {
    let mut at = 0;
    while at < bytes.len() {
        let problem = match parse(&bytes[at..]) {
            Parsed::Good(payload) => {
                take(payload);
                at += HEADER_BYTES + payload.len();
                continue;
            }
            Parsed::Short => "its length reaches beyond the file",
            Parsed::Bad(problem) => problem,
        };
        let good_behind =
            (at + 1..bytes.len()).any(|later| matches!(parse(&bytes[later..]), Parsed::Good(_)));
        if good_behind || problem == "its format level is not known here" {
            return Err(Corrupt { path: path.display().to_string(), offset: at as u64, problem });
        }
        return Ok((bytes.len() - at) as u64);
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three(dir: &Path) -> PathBuf {
        let path = dir.join("file");
        let mut writer = Writer::create(&path).unwrap();
        for payload in [&b"one"[..], b"", b"three is longer"] {
            writer.append(payload).unwrap();
        }
        writer.sync().unwrap();
        path
    }

    #[test]
    fn every_cut_leaves_whole_records_and_a_torn_tail() {
        let dir = tempfile::tempdir().unwrap();
        let path = three(dir.path());
        let whole = std::fs::read(&path).unwrap();
        let ends = [0, 15, 27, whole.len()];
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let read = read_all(&path).unwrap();
            let records = ends.iter().filter(|end| **end <= cut).count() - 1;
            assert_eq!(read.records.len(), records, "cut {cut}");
            assert_eq!(read.torn_bytes as usize, cut - ends[records], "cut {cut}");

            let (mut writer, again) = Writer::open_append(&path).unwrap();
            assert_eq!(again, read);
            writer.append(b"after").unwrap();
            let read = read_all(&path).unwrap();
            assert_eq!((read.records.len(), read.torn_bytes), (records + 1, 0), "cut {cut}");
            assert_eq!(read.records[records], b"after");
        }
    }

    #[test]
    fn every_flipped_bit_before_the_last_record_is_corrupt() {
        let dir = tempfile::tempdir().unwrap();
        let path = three(dir.path());
        let whole = std::fs::read(&path).unwrap();
        for at in 0..27 {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                std::fs::write(&path, &bytes).unwrap();
                let offset = if at < 15 { 0 } else { 15 };
                match read_all(&path) {
                    Err(Error::Corrupt(corrupt)) => assert_eq!(corrupt.offset, offset, "byte {at}"),
                    other => panic!("byte {at} bit {bit}: {other:?}"),
                }
                assert!(matches!(Writer::open_append(&path), Err(Error::Corrupt(_))));
            }
        }
    }

    #[test]
    fn zeros_at_the_end_are_a_torn_tail() {
        let dir = tempfile::tempdir().unwrap();
        let path = three(dir.path());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend([0; 4096]);
        std::fs::write(&path, &bytes).unwrap();
        let read = read_all(&path).unwrap();
        assert_eq!((read.records.len(), read.torn_bytes), (3, 4096));
    }

    #[test]
    fn one_record_files_are_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("launch");
        assert!(read_one(&path).unwrap_err().is_not_found());
        write_one(&path, b"a").unwrap();
        write_one(&path, b"b").unwrap();
        assert_eq!(read_one(&path).unwrap(), b"b");
        std::fs::write(&path, b"").unwrap();
        assert!(read_one(&path).is_err());
        assert!(read_one(&three(dir.path())).is_err());
    }

    #[test]
    fn frames_pass_a_stream_and_refuse_nonsense() {
        let bytes = frame(b"hello");
        assert_eq!(read_frame(&mut &bytes[..], 5).unwrap(), b"hello");
        assert!(read_frame(&mut &bytes[..], 4).is_err());
        assert!(read_frame(&mut &b"GET / HTTP/1.1\r\n"[..], 5).is_err());
        assert_eq!(take_frame(&bytes, 5).unwrap(), Some(&b"hello"[..]));
        for cut in 0..bytes.len() {
            assert_eq!(take_frame(&bytes[..cut], 5).unwrap(), None);
        }
        assert!(take_frame(&bytes, 4).is_err());
        assert!(take_frame(b"G", 4).is_err());
    }
}
