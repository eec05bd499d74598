//! Saves a file so that it is whole or absent: it is written under another name first. Does not cover what is in it.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{BufWriter, IntoInnerError, Result};
use std::path::Path;

/// Writes to `path` what `write` writes; after an error all is as before. What is no file (a pipe) is written to.
pub fn save(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let written = |file| {
        let mut out = BufWriter::new(file);
        write(&mut out)?;
        out.into_inner().map_err(IntoInnerError::into_error)
    };
    if path.metadata().is_ok_and(|found| !found.is_file()) {
        return written(File::create(path)?).map(drop);
    }
    let mut partial = path.as_os_str().to_owned();
    // Whoever else saves to `path`, here or on another machine, has another name: the hasher's keys are random.
    partial.push(format!(".{:016x}.partial", RandomState::new().hash_one(std::process::id())));
    let whole = || {
        written(File::create_new(&partial)?)?.sync_all()?;
        std::fs::rename(&partial, path)
    };
    whole().inspect_err(|_| drop(std::fs::remove_file(&partial)))
}

#[cfg(test)]
mod tests {
    use std::io::{Error, Write};

    use super::*;

    #[test]
    fn what_cannot_be_written_leaves_the_former_file_and_no_other() {
        let folder = std::env::temp_dir().join(format!("nanobpe-save-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("file");
        save(&path, |out| out.write_all(b"former")).unwrap();
        save(&path, |out| out.write_all(b"later").and(Err(Error::other("full")))).unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), b"former");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn many_at_once_leave_one_whole_file() {
        let folder = std::env::temp_dir().join(format!("nanobpe-savers-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("file");
        std::thread::scope(|scope| {
            for saver in 0..8_u8 {
                let path = &path;
                scope.spawn(move || {
                    let some = |out: &mut BufWriter<File>| out.write_all(&[saver; 100_000]);
                    (0..20).for_each(|_| save(path, some).unwrap());
                });
            }
        });
        let file = std::fs::read(&path).unwrap();
        assert!(file.len() == 100_000 && file.iter().all(|byte| *byte == file[0]));
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
