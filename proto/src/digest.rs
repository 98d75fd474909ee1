//! What a host says of all its tasks in one number, so that it and the scheduler notice when they differ. Not for
//! security: a wrapping sum, which needs no order.

use crate::TaskId;
use crate::wire::Status;

/// The digest of one live task. Sums of it over different sets of tasks are the same by chance only once in 2^64.
pub fn of_task(task: TaskId, status: Status) -> u64 {
    mix(mix(task.0).wrapping_add(status as u64))
}

/// The digest of a host's live tasks; never 0, which says nothing.
pub fn of_host(tasks: impl IntoIterator<Item = (TaskId, Status)>) -> u64 {
    let sum = tasks.into_iter().fold(1_u64, |sum, (task, status)| sum.wrapping_add(of_task(task, status)));
    sum.max(1)
}

/// SplitMix64's finalizer: every bit of the number moves every bit of the result.
fn mix(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_matter_and_everything_else_does() {
        let of = |tasks: &[(u64, Status)]| of_host(tasks.iter().map(|&(id, status)| (TaskId(id), status)));
        assert_eq!(
            of(&[(1, Status::Running), (2, Status::Starting)]),
            of(&[(2, Status::Starting), (1, Status::Running)])
        );
        assert_ne!(of(&[(1, Status::Running)]), of(&[(1, Status::Starting)]));
        assert_ne!(of(&[(1, Status::Running)]), of(&[(2, Status::Running)]));
        assert_ne!(of(&[(1, Status::Running)]), of(&[]));
        assert_ne!(of(&[]), 0);
    }
}
