//! Mistakes that the tests make on purpose, one at a time, to prove that the laws and the hunter find them. In the
//! product none is ever made.

/// A rule that is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Break {
    /// A placement is applied without the re-check: whether the host has room, ports and attributes for it by now.
    PlacementUnchecked,
    /// A placement is not re-checked against the host's room.
    RoomUnchecked,
    /// A role goes on being charged for what has ended.
    ChargeKept,
    /// Room stays kept on a host that fell silent.
    RoomKept,
}

/// Whether that rule is broken now.
#[cfg(not(test))]
pub(crate) fn broken(_: Break) -> bool {
    false
}

#[cfg(test)]
pub(crate) use tests::broken;

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use super::Break;

    thread_local! {
        static BROKEN: Cell<Option<Break>> = const { Cell::new(None) };
    }

    pub(crate) fn broken(rule: Break) -> bool {
        BROKEN.get() == Some(rule)
    }

    /// Does something while a rule is broken on this thread.
    pub(crate) fn while_broken<T>(rule: Break, what: impl FnOnce() -> T) -> T {
        BROKEN.set(Some(rule));
        let done = what();
        BROKEN.set(None);
        done
    }
}
