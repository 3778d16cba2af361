//! The configuration's file while a process runs. Some of what is in it holds as soon as it is written.

use std::path::PathBuf;

use super::{Config, environment, read};

/// The file that a process was configured by.
#[derive(Debug)]
pub(crate) struct Watched {
    file: PathBuf,
    /// As it was seen last.
    text: Vec<u8>,
}

/// What a look at it has shown.
pub(crate) enum Seen {
    /// It can't be read; it is being written, or mounted, perhaps.
    Nothing,
    /// It is as it was.
    Same,
    /// It is another: what it says, the environment laid over it, or what is wrong with it.
    Changed(Box<Result<Config, String>>),
}

impl Watched {
    /// The file that `config` was read from, if it was from one.
    pub(crate) fn of(config: &Config) -> Option<Self> {
        let file = config.file.clone()?;
        // A change since it was read is one, and what has not changed is the same when it is read again.
        Some(Watched { file, text: Vec::new() })
    }

    /// Looks at it.
    pub(crate) async fn look(&mut self) -> Seen {
        let Ok(text) = tokio::fs::read(&self.file).await else { return Seen::Nothing };
        if text == self.text {
            return Seen::Same;
        }
        self.text = text;
        let config = environment().and_then(|variables| read(Some(&self.file), variables));
        Seen::Changed(Box::new(config))
    }
}
