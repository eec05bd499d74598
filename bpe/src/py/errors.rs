//! One Python exception per kind of error, and the one of Ctrl-C. Promises that all of them are `NanobpeError`s but for what the operating
//! system refuses, which stays an `OSError` and names its file. Does not cover arguments of a wrong type: PyO3 refuses
//! those.

use std::path::Path;
use std::time::{Duration, Instant};

use pyo3::create_exception;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;

use crate::error::Error;

create_exception!(nanobpe, NanobpeError, PyValueError, "What this package refuses.");
create_exception!(nanobpe, VocabularySizeError, NanobpeError, "vocab_size is below 256 or not below 2**31.");
create_exception!(nanobpe, PatternError, NanobpeError, "The pattern is no regular expression, or gave up on a text.");
create_exception!(nanobpe, EmptyCorpusError, NanobpeError, "There is no text.");
create_exception!(nanobpe, CorpusTooSmallError, NanobpeError, "The text has fewer merges than vocab_size needs.");
create_exception!(nanobpe, TokensError, NanobpeError, "Tokens that cannot encode every text, or not in one way.");
create_exception!(nanobpe, CountsError, NanobpeError, "Word counts that cannot be read or added.");
create_exception!(nanobpe, VocabularyError, NanobpeError, "A file that is no vocabulary.");
create_exception!(nanobpe, TextError, NanobpeError, "A text that is not UTF-8, or a line that holds none.");
create_exception!(nanobpe, FileFormatError, NanobpeError, "A file that `read` does not take.");

/// Between two looks for Ctrl-C; each may wait 5 ms for the interpreter lock.
const PATIENCE: Duration = Duration::from_millis(100);

/// What long work without the interpreter lock calls as often as it likes, to be ended by Ctrl-C.
pub fn signals() -> impl FnMut() -> PyResult<()> {
    let mut looked = Instant::now();
    move || {
        if looked.elapsed() > PATIENCE {
            looked = Instant::now();
            Python::attach(|py| py.check_signals())?;
        }
        Ok(())
    }
}

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::VocabSize(_) => VocabularySizeError::new_err(message),
            Error::Threads(_) | Error::NoThread(..) | Error::MaxWords(_) => NanobpeError::new_err(message),
            Error::Pattern { .. } => PatternError::new_err(message),
            Error::EmptyCorpus => EmptyCorpusError::new_err(message),
            Error::CorpusTooSmall { .. } => CorpusTooSmallError::new_err(message),
            Error::PatternsDiffer(..) | Error::Malformed(_) | Error::TooLarge(_) => CountsError::new_err(message),
            Error::Text { .. } => TextError::new_err(message),
            Error::Tokens(_) => TokensError::new_err(message),
            Error::NotAVocabulary(_) => VocabularyError::new_err(message),
            Error::Io(error) => error.into(),
        }
    }
}

/// The exception of an error about `path`, which it names.
pub fn about_file(error: Error, path: &Path) -> PyErr {
    let path = path.display().to_string();
    match error {
        Error::Io(error) => match error.raw_os_error() {
            Some(number) => {
                let reason = error.to_string();
                let reason = reason.split(" (os error").next().unwrap_or_default().to_owned();
                PyOSError::new_err((number, reason, path)) // Python makes it a FileNotFoundError or what else it is
            }
            None => PyOSError::new_err(format!("{path}: {error}")),
        },
        Error::Malformed(reason) => Error::Malformed(format!("{path}: {reason}")).into(),
        Error::NotAVocabulary(reason) => Error::NotAVocabulary(format!("{path}: {reason}")).into(),
        error @ (Error::PatternsDiffer(..) | Error::TooLarge(_)) => CountsError::new_err(format!("{path}: {error}")),
        error => error.into(),
    }
}

/// Puts the exceptions into the module.
pub fn add_exceptions(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    for exception in [
        py.get_type::<NanobpeError>(),
        py.get_type::<VocabularySizeError>(),
        py.get_type::<PatternError>(),
        py.get_type::<EmptyCorpusError>(),
        py.get_type::<CorpusTooSmallError>(),
        py.get_type::<TokensError>(),
        py.get_type::<CountsError>(),
        py.get_type::<VocabularyError>(),
        py.get_type::<TextError>(),
        py.get_type::<FileFormatError>(),
    ] {
        module.add(exception.name()?, exception)?;
    }
    Ok(())
}
