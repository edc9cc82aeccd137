//! Known mistakes, to be planted by tests that must find them. Without the feature `defects` there are none: every
//! question is answered `false` at compile time.

/// A known mistake, or a rule left out. The names follow the executable specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// Outputs of a commit leave before it is stored.
    PublishBeforeCommit,
    /// A new owner ignores the marker.
    ForgetMarker,
    /// Replies leave when their commit is sealed.
    ReplyBeforeCommit,
    /// A commit trims what is not known to be published.
    TrimEarly,
    /// A slot is given while outputs wait or a transaction is open.
    GiveOpenTransaction,
    /// Only the last id in the list is fenced.
    FenceLastOwnerOnly,
    /// After an unknown outcome the lane goes on at once.
    ReinitWithoutReread,
    /// After an unknown outcome the lane reads owner and epoch, not the marker.
    SkipMarkerReread,
    /// Recomputed outputs are recognised by their commit's number instead of their cause.
    CompareNumbersOnly,
    /// A store behind the marker goes on at its own number.
    ContinueAtStoreN,
    /// Positions in a marker may fall.
    MarkerGoesBack,
    /// A read under another run of the store is believed.
    IgnoreServerRun,
}

/// Which mistakes are planted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Defects {
    #[cfg(feature = "defects")]
    planted: Vec<Defect>,
}

impl Defects {
    #[cfg(feature = "defects")]
    pub(crate) fn plant(&mut self, defect: Defect) {
        self.planted.push(defect);
    }

    #[cfg(feature = "defects")]
    pub(crate) fn has(&self, defect: Defect) -> bool {
        self.planted.contains(&defect)
    }

    #[cfg(not(feature = "defects"))]
    #[inline(always)]
    pub(crate) fn has(&self, _: Defect) -> bool {
        false
    }
}
