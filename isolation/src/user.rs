//! The unix user of a role, and becoming it.

use std::ffi::{CStr, CString};
use std::io;
use std::path::PathBuf;

/// A unix user as the system's databases know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups, the primary one among them.
    pub groups: Vec<u32>,
    /// Its own home; a task's is its sandbox.
    pub home: PathBuf,
}

/// Why a user cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NoUser {
    /// Nobody has that name.
    #[error("there is no unix user {0:?} on this host; create it, or use a role that is a user here")]
    Unknown(String),
    /// The database could not be asked.
    #[error("cannot look up the unix user {0:?}: {1}")]
    Failed(String, io::Error),
}

/// Largest buffer that a lookup gets, in bytes.
const BUFFER_BYTES_MAX: usize = 1 << 20;

/// Looks a user up by name: in `/etc/passwd` and `/etc/group`, and if it is not there, in whatever the host's name
/// service knows. The files come first because asking the name service loads its libraries into this process for
/// good, and an executor is to be small.
pub fn find(name: &str) -> Result<User, NoUser> {
    if let Some(user) = in_files(|user| user.name == name) {
        return Ok(user);
    }
    let unknown = || NoUser::Unknown(name.to_owned());
    let c_name = CString::new(name).map_err(|_| unknown())?;
    lookup(name, |entry, buffer, result| {
        // SAFETY: every pointer is valid for the call, and the length is that of the buffer.
        unsafe { libc::getpwnam_r(c_name.as_ptr(), entry, buffer.as_mut_ptr(), buffer.len(), result) }
    })
}

/// The user that this process runs as; one without an entry is named by its number.
pub fn current() -> User {
    let uid = rustix::process::getuid().as_raw();
    let gid = rustix::process::getgid().as_raw();
    if let Some(user) = in_files(|user| user.uid == uid) {
        return user;
    }
    lookup(&uid.to_string(), |entry, buffer, result| {
        // SAFETY: as in `find`.
        unsafe { libc::getpwuid_r(uid, entry, buffer.as_mut_ptr(), buffer.len(), result) }
    })
    .unwrap_or(User { name: uid.to_string(), uid, gid, groups: vec![gid], home: "/".into() })
}

fn in_files(wanted: impl Fn(&User) -> bool) -> Option<User> {
    let read = |path| {
        std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    };
    parse_files(&read("/etc/passwd"), &read("/etc/group"), wanted)
}

/// `name:password:uid:gid:words:home:shell` and `name:password:gid:member,member`.
fn parse_files(passwd: &str, group: &str, wanted: impl Fn(&User) -> bool) -> Option<User> {
    let mut user = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, _] = fields[..] else { return None };
        if name.is_empty() || name.starts_with(['+', '-', '#']) {
            return None;
        }
        let gid = gid.parse().ok()?;
        let user =
            User { name: name.into(), uid: uid.parse().ok()?, gid, groups: vec![gid], home: home.into() };
        wanted(&user).then_some(user)
    })?;
    for line in group.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let [_, _, gid, members] = fields[..] else { continue };
        if let Ok(gid) = gid.parse::<u32>()
            && members.split(',').any(|member| member == user.name)
            && !user.groups.contains(&gid)
        {
            user.groups.push(gid);
        }
    }
    Some(user)
}

fn lookup(
    asked: &str,
    ask: impl Fn(*mut libc::passwd, &mut [libc::c_char], *mut *mut libc::passwd) -> libc::c_int,
) -> Result<User, NoUser> {
    let mut buffer: Vec<libc::c_char> = vec![0; 1024];
    // SAFETY: `passwd` is plain data, for which zeros are a value.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    loop {
        let mut result = std::ptr::null_mut();
        match ask(&mut entry, &mut buffer, &mut result) {
            0 if result.is_null() => return Err(NoUser::Unknown(asked.to_owned())),
            0 => break,
            libc::ERANGE if buffer.len() < BUFFER_BYTES_MAX => buffer.resize(buffer.len() * 4, 0),
            libc::EINTR => {}
            // What glibc may also say of a name that is nobody's.
            libc::ENOENT | libc::ESRCH => return Err(NoUser::Unknown(asked.to_owned())),
            code => return Err(NoUser::Failed(asked.to_owned(), io::Error::from_raw_os_error(code))),
        }
    }
    // SAFETY: the call succeeded, so both point to strings inside `buffer`, which lives on.
    let (name, home) = unsafe { (CStr::from_ptr(entry.pw_name), CStr::from_ptr(entry.pw_dir)) };
    Ok(User {
        uid: entry.pw_uid,
        gid: entry.pw_gid,
        groups: groups(name, entry.pw_gid),
        name: name.to_string_lossy().into_owned(),
        home: home.to_string_lossy().into_owned().into(),
    })
}

fn groups(name: &CStr, gid: u32) -> Vec<u32> {
    let mut count: libc::c_int = 32;
    loop {
        let mut groups = vec![gid; count as usize];
        let had = count;
        // SAFETY: `groups` has room for `count` entries.
        let found = unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &mut count) };
        if found >= 0 {
            groups.truncate(count.max(0) as usize);
            return groups;
        }
        if count <= had || count > 65_536 {
            return vec![gid];
        }
    }
}

/// Becomes `user` for good: groups, then group, then user; all capabilities go, and none comes back by exec.
/// For the moment between fork and exec: it allocates nothing and takes no lock.
pub fn become_user(user: &User) -> io::Result<()> {
    drop_bounding_set();
    let check = |result: libc::c_int| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: plain system calls; the pointer and its length are of one vector.
    unsafe {
        check(libc::setgroups(user.groups.len(), user.groups.as_ptr()))?;
        check(libc::setresgid(user.gid, user.gid, user.gid))?;
        check(libc::setresuid(user.uid, user.uid, user.uid))?;
    }
    no_new_privileges()
}

/// From here on, no exec can give this process more than it has (setuid programs run without their power).
pub fn no_new_privileges() -> io::Result<()> {
    rustix::thread::set_no_new_privs(true).map_err(io::Error::from)
}

/// Without these, even a task of the role `root` has no capability after its exec.
fn drop_bounding_set() {
    for capability in 0..64 {
        // SAFETY: takes numbers only. It fails beyond the last capability that the kernel knows, or without
        // the right to do it, and then the user that is about to be set has none either.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_read_line_by_line() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\n+::::::\n\nbroken\nbad:x:y:1::/:/\nwww:x:33:34:w:/var/www:/bin/sh\n";
        let group = "root:x:0:\nwww:x:34:www\nlog:x:4:syslog,www\nbroken\nnear:x:5:www2,xwww\n";
        let user = parse_files(passwd, group, |user| user.name == "www").unwrap();
        assert_eq!(
            user,
            User { name: "www".into(), uid: 33, gid: 34, groups: vec![34, 4], home: "/var/www".into() }
        );
        assert_eq!(parse_files(passwd, group, |user| user.uid == 33), Some(user));
        for nobody in ["", "+", "bad", "broken", "ww"] {
            assert_eq!(parse_files(passwd, group, |user| user.name == nobody), None);
        }
    }

    #[test]
    fn the_name_service_agrees_with_the_files() {
        let name = CString::new("root").unwrap();
        let asked = lookup("root", |entry, buffer, result| {
            // SAFETY: as in `find`.
            unsafe { libc::getpwnam_r(name.as_ptr(), entry, buffer.as_mut_ptr(), buffer.len(), result) }
        });
        assert_eq!(asked.unwrap(), find("root").unwrap());
    }

    #[test]
    fn users_are_found_or_said_to_be_unknown() {
        let root = find("root").unwrap();
        assert_eq!((root.uid, root.gid, root.home), (0, 0, "/root".into()));
        assert!(root.groups.contains(&0));
        for bad in ["no-such-user-here", "", "a\0b", "../root"] {
            let why = find(bad).unwrap_err();
            assert!(matches!(why, NoUser::Unknown(_)), "{why:?}");
        }
        assert_eq!(current().uid, rustix::process::getuid().as_raw());
    }
}
