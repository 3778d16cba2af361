//! The configuration's file while a process runs. Some of what is in it holds as soon as it is written.

use std::path::PathBuf;

use super::Config;
use super::read::{environment, read_text};

/// The file that a process was configured by.
#[derive(Debug)]
pub(crate) struct Watched {
    file: PathBuf,
    /// As it was taken over last.
    text: String,
    /// As it was seen last.
    seen: String,
}

/// What a look at it has shown.
pub(crate) enum Seen {
    /// It can't be read.
    Nothing,
    /// It is as it was, or is being written.
    Same,
    /// It is another: what it says, the environment laid over it, or what is wrong with it.
    Changed(Box<Result<Config, String>>),
}

impl Watched {
    /// The file that `config` was read from, if it was from one.
    pub(crate) fn of(config: &Config) -> Option<Self> {
        let file = config.file.clone()?;
        // Whatever is in it counts as a change once: it may have changed since it was read.
        Some(Watched { file, text: String::new(), seen: String::new() })
    }

    /// Looks at it. A change is one when it is there for the second time: half of a file, of which the rest is yet to
    /// be written, is a file as well.
    pub(crate) async fn look(&mut self) -> Seen {
        let Ok(text) = tokio::fs::read_to_string(&self.file).await else { return Seen::Nothing };
        let is_whole = text == self.seen;
        if !is_whole || text == self.text {
            self.seen = text;
            return Seen::Same;
        }
        self.text = text;
        let config = environment().and_then(|variables| read_text(Some(&self.file), &self.text, variables));
        Seen::Changed(Box::new(config))
    }
}
