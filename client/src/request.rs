//! Requests that change something: who asks, and the id under which asking again is safe.

use proto::wire;

use crate::duration;
use crate::error::{Error, Kind};

/// Longest request id, in bytes.
const ID_BYTES_MAX: usize = 128;

/// A new request of this process's user, or the one named before.
///
/// An id of ours is a UUID that carries the time it was made at. So whoever repeats it later, even from another
/// process, states the same time, and a cluster that has forgotten the request by then refuses it instead of
/// doing it twice.
pub(crate) fn request(id: Option<&str>) -> Result<wire::Request, Error> {
    let id = match id {
        None => uuid::Uuid::now_v7().to_string(),
        Some(id) if id.is_empty() || id.len() > ID_BYTES_MAX || !id.chars().all(|c| c.is_ascii_graphic()) => {
            return Err(Error::new(Kind::InvalidParameter, format!("the request id {id:?} cannot be used"))
                .hint(format!("it has 1 to {ID_BYTES_MAX} printable ASCII characters without blanks")));
        }
        Some(id) => id.to_owned(),
    };
    let created_ms = created_ms(&id).unwrap_or_else(duration::now_ms);
    Ok(wire::Request { identity: user(), id, created_ms, body_hash: Default::default() })
}

/// When an id of ours was made.
fn created_ms(id: &str) -> Option<u64> {
    let (seconds, nanos) =
        uuid::Uuid::try_parse(id).ok().filter(|id| id.get_version_num() == 7)?.get_timestamp()?.to_unix();
    Some(seconds.saturating_mul(1000) + u64::from(nanos / 1_000_000))
}

/// Name of the unix user who runs this process.
pub(crate) fn user() -> String {
    let uid = rustix::process::getuid().as_raw();
    let named = |text: String| {
        text.lines().find_map(|line| {
            let mut parts = line.split(':');
            let name = parts.next()?;
            (parts.nth(1)? == uid.to_string()).then(|| name.to_owned())
        })
    };
    std::fs::read_to_string("/etc/passwd").ok().and_then(named).unwrap_or_else(|| format!("uid-{uid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_states_its_time_wherever_it_is_repeated() {
        let first = request(None).unwrap();
        assert!(first.created_ms.abs_diff(duration::now_ms()) < 60_000);
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert_eq!(request(Some(&first.id)).unwrap(), first);
        assert_ne!(request(None).unwrap().id, first.id);
    }

    #[test]
    fn an_id_of_the_users_own_is_taken_if_it_is_sane() {
        assert_eq!(request(Some("deploy-17")).unwrap().id, "deploy-17");
        for bad in ["", "a b", "ä", &"x".repeat(129)] {
            assert_eq!(request(Some(bad)).unwrap_err().exit_code(), 6, "{bad}");
        }
    }
}
