//! Saves a file so that it is whole or absent: it is written under another name first. Does not cover what is in it.

use std::fs::File;
use std::io::{BufWriter, IntoInnerError, Result};
use std::path::Path;

/// Writes to `path` what `write` writes; after an error all is as before.
pub fn save(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let whole = || {
        let mut out = BufWriter::new(File::create(&partial)?);
        write(&mut out)?;
        out.into_inner().map_err(IntoInnerError::into_error)?.sync_all()?;
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
}
