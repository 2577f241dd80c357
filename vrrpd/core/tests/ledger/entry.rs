//! What an entry of the ledger is.

/// How binding a sentence is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Level {
    Must,
    MustNot,
    Should,
    ShouldNot,
    /// What the RFC says a router does, without a capital word: the state machine, the formats.
    Step,
}

/// A function that panics where the requirement is not met.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: fn(),
}

/// Names a test of the same module.
macro_rules! case {
    ($function:ident) => {
        $crate::entry::Case { name: concat!(module_path!(), "::", stringify!($function)), run: $function }
    };
}

pub(crate) use case;

/// Where a requirement is met.
pub(crate) enum Place {
    /// In `vrrpd-core`: `positive` shows that what is demanded happens, `negative` that what is forbidden, or what is
    /// demanded in another case, does not.
    Core { positive: Case, negative: Case },
    /// By the daemon, the kernel it sets up, or the configuration's checks: tests by file and name.
    Elsewhere { tests: &'static [(&'static str, &'static str)] },
    /// It is not met, on purpose; `shown` tells what happens instead.
    Deviates { why: &'static str, shown: Case },
    /// It does not bind, or is not for a program to meet.
    NotApplicable { why: &'static str },
}

/// One requirement.
pub(crate) struct Entry {
    pub(crate) rfc: u32,
    pub(crate) section: &'static str,
    /// Tells the section's entries apart.
    pub(crate) nth: u32,
    pub(crate) level: Level,
    /// The sentence, or the part of it that this entry is about.
    pub(crate) text: &'static str,
    pub(crate) place: Place,
}

impl Entry {
    pub(crate) fn id(&self) -> String {
        format!("{}-{}-{}", self.rfc, self.section, self.nth)
    }

    pub(crate) fn cases(&self) -> Vec<&Case> {
        match &self.place {
            Place::Core { positive, negative } => vec![positive, negative],
            Place::Deviates { shown, .. } => vec![shown],
            Place::Elsewhere { .. } | Place::NotApplicable { .. } => vec![],
        }
    }

    /// A line of the table: id, level, place, tests or reason.
    pub(crate) fn row(&self) -> String {
        let (place, shown) = match &self.place {
            Place::Core { positive, negative } => {
                ("core", format!("+ {}, - {}", short(positive.name), short(negative.name)))
            }
            Place::Elsewhere { tests } => {
                let tests: Vec<String> = tests.iter().map(|(file, name)| format!("{file} {name}")).collect();
                ("elsewhere", tests.join(", "))
            }
            Place::Deviates { why, shown } => ("deviates", format!("{why} ({})", short(shown.name))),
            Place::NotApplicable { why } => ("not applicable", (*why).to_owned()),
        };
        format!("{:<16} {:<10} {place:<14} {shown}", self.id(), format!("{:?}", self.level))
    }
}

fn short(name: &'static str) -> &'static str {
    name.strip_prefix("ledger::").unwrap_or(name)
}
