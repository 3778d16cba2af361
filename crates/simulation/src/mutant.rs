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
    /// A relay whose tail begins anew takes what comes first for what it had: a seq given out again shows nowhere.
    RelaysDontCompare,
    /// Gateways' questions to the log come without digests, so only batches are compared.
    QuestionsWithoutDigests,
    /// The log knows no digests of what it has, so its writer takes any journal for its own.
    WritersDontCompare,
    /// Nobody begins an epoch after one that only a gateway knows.
    AheadForever,
    /// A new epoch begins after everything there is, whatever differs.
    EpochsBeginLate,
    /// A look that finds less than another found is a loss, whatever the next one finds.
    LooksOnce,
    /// PostgreSQL compares the term and the epoch of a writer, but not its head and digest.
    HeadsUnfenced,
    /// The log says what is gone as it was before it read.
    CheckedOnce,
    /// Where the log can't answer, there is nothing, and what is asked for is passed over.
    FailuresAreEmpty,
    /// Gateways ask for everything twice.
    Stampede,
    /// Relays say nothing when there is nothing.
    BeaconsOff,
    /// Gateways bear a silent feed for ever.
    SilenceUntold,
    /// The journal is trimmed past what the log has.
    TrimsTooFar,
    /// A journal at its bound forgets its oldest entry for every new one.
    FullDropsOldest,
    /// The log says that it has what it may get.
    DurableTooEarly,
    /// The log says that it has what the journal lost.
    ReplacedIsDurable,
    /// What the journal lost stays lost, though the log has it.
    LostForGood,
    /// Events come without their ttl.
    TtlForgotten,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 30] = [
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
        Mutant::RelaysDontCompare,
        Mutant::QuestionsWithoutDigests,
        Mutant::WritersDontCompare,
        Mutant::AheadForever,
        Mutant::EpochsBeginLate,
        Mutant::LooksOnce,
        Mutant::HeadsUnfenced,
        Mutant::CheckedOnce,
        Mutant::FailuresAreEmpty,
        Mutant::Stampede,
        Mutant::BeaconsOff,
        Mutant::SilenceUntold,
        Mutant::TrimsTooFar,
        Mutant::FullDropsOldest,
        Mutant::DurableTooEarly,
        Mutant::ReplacedIsDurable,
        Mutant::LostForGood,
        Mutant::TtlForgotten,
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
