//! Mutants: mechanisms broken on purpose, to see that the simulation would notice.

/// What is broken. Each is a lie that an adapter tells, so the product itself is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A relay leaves an event out and claims that its range is covered.
    RelaySkips,
    /// Gateways don't see where a batch begins, and so no gap.
    GapsHidden,
    /// The log claims to have said everything up to the tip.
    LogVouchesTooFar,
    /// The log passes over what retention has dropped.
    ExpiredHidden,
    /// The log passes over what the journal lost.
    HoleHidden,
    /// All entries look alike: a seq that is given out again shows nowhere.
    DigestsAlike,
    /// Nobody begins a new epoch.
    EpochsForgotten,
    /// The journal forgets what it has stored under which key.
    DedupeOff,
    /// PostgreSQL doesn't compare what writers believe.
    WritersUnfenced,
    /// The journal's leader is never ahead of what the relay has: a dead tail stays dead.
    TipHidden,
    /// The log answers for an older epoch without saying so.
    EpochsMixed,
    /// Gateways know of no digests, and so don't see that what they have was lost.
    GatewaysDontCompare,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 12] = [
        Mutant::RelaySkips,
        Mutant::GapsHidden,
        Mutant::LogVouchesTooFar,
        Mutant::ExpiredHidden,
        Mutant::HoleHidden,
        Mutant::DigestsAlike,
        Mutant::EpochsForgotten,
        Mutant::DedupeOff,
        Mutant::WritersUnfenced,
        Mutant::TipHidden,
        Mutant::EpochsMixed,
        Mutant::GatewaysDontCompare,
    ];

    /// Its name on the command line.
    pub fn name(self) -> String {
        format!("{self:?}")
    }

    /// The one of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Mutant::ALL.into_iter().find(|mutant| mutant.name() == name)
    }
}
