//! What the system draws by chance, taken from the seed: `std` and tokio seed themselves by this call once a thread
//! and a process. Outside of a simulated process it is the system's.

use std::sync::atomic::{AtomicU64, Ordering};

/// Of this process; 0 is none.
static SEED: AtomicU64 = AtomicU64::new(0);
static DRAWN: AtomicU64 = AtomicU64::new(0);

/// From now on this process draws from `seed` only.
pub(super) fn seed(seed: u64) {
    SEED.store(seed.wrapping_add(1).max(1), Ordering::Relaxed);
    DRAWN.store(0, Ordering::Relaxed);
}

/// Takes the place of the C library's: `std` leaves its symbol weak so that this can be done.
///
/// # Safety
/// As the C library's: `buffer` has room for `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    // SAFETY: the caller's promise.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
    let seed = SEED.load(Ordering::Relaxed);
    if seed == 0 {
        use std::io::Read as _;
        let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(bytes));
        return if read.is_ok() { length as isize } else { -1 };
    }
    for part in bytes.chunks_mut(8) {
        let n = DRAWN.fetch_add(1, Ordering::Relaxed);
        let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb);
        part.copy_from_slice(&(z ^ (z >> 29)).to_le_bytes()[..part.len()]);
    }
    length as isize
}
