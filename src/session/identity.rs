//! The identity of a process, as the guard reports it: `BOOT_ID/PID_NAMESPACE/PID/START_TICKS`.
//!
//! It outlives an `exec`, and no two processes of one machine share it. It is known on Linux only.

use std::fs;

/// Whether the process lives; none if that cannot be known from here, such as for another PID namespace.
pub(super) fn is_alive(identity: Option<&str>) -> Option<bool> {
    let mut parts = identity?.split('/');
    let (boot, namespace, pid, start) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let ours = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let our_namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    if ours.trim() != boot || !our_namespace.to_string_lossy().contains(namespace) {
        return None;
    }
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return Some(false);
    };
    // The name in parentheses may hold anything; behind it come the state and, as the 22nd field of all, the start.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let is_zombie = matches!(*fields.first()?, "Z" | "X");
    Some(!is_zombie && *fields.get(19)? == start)
}

#[cfg(test)]
mod tests {
    use super::is_alive;
    use std::fs;

    /// The identity of this process, read as the guard reads it.
    fn own() -> String {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("Linux");
        let namespace = fs::read_link("/proc/self/ns/pid").expect("Linux");
        let namespace = namespace
            .to_string_lossy()
            .replace("pid:[", "")
            .replace(']', "");
        let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
        let start = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(19));
        format!(
            "{}/{namespace}/{}/{}",
            boot.trim(),
            std::process::id(),
            start.expect("a start")
        )
    }

    #[test]
    fn a_process_is_alive_until_it_or_its_pid_is_another() {
        let own = own();
        assert_eq!(is_alive(Some(&own)), Some(true));
        let (rest, start) = own.rsplit_once('/').expect("an identity");
        let younger = format!("{rest}/{}1", start);
        assert_eq!(
            is_alive(Some(&younger)),
            Some(false),
            "another process has the pid"
        );
        let (rest, _) = rest.rsplit_once('/').expect("an identity");
        assert_eq!(
            is_alive(Some(&format!("{rest}/4194305/{start}"))),
            Some(false),
            "nobody has the pid"
        );
    }

    #[test]
    fn of_elsewhere_nothing_is_known() {
        assert_eq!(is_alive(None), None);
        assert_eq!(is_alive(Some("boot/1/2/3")), None);
        assert_eq!(is_alive(Some("")), None);
    }
}
