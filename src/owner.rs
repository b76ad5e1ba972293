//! Who owns the other end of a loopback TCP connection, as the kernel says.
//!
//! On Linux a socket carries the uid it was created with. The kernel is asked for exactly the
//! peer's socket (`NETLINK_SOCK_DIAG`, one request of 72 bytes whatever the number of connections);
//! where it will not talk netlink (a sandbox, no `tcp_diag`), `/proc/net/tcp` is read instead.
//!
//! This module knows no policy: whether a uid may come in is the caller's decision. **A peer that
//! has closed its socket has no owner any more**, although the kernel then prints uid 0 for it; such
//! a socket is reported as `None`, so on Linux `None` means "refuse", not "let in".

use std::io;
use std::net::SocketAddr;

/// The uid that owns the socket at the other end of a connection: the one whose own address is
/// `peer` and whose remote address is `local`.
///
/// Both addresses are as the accepted socket gives them; an IPv4 address mapped into IPv6 is the
/// same as the IPv4 address. `None`: this is not Linux, or there is no such socket on this machine
/// (in this network namespace), or its process has closed it.
///
/// Blocks for a system call or two, some 10 µs; at most [`PATIENCE`] should the kernel not answer.
///
/// # Errors
///
/// Neither netlink nor `/proc/net/tcp` could be asked.
pub fn owner(local: SocketAddr, peer: SocketAddr) -> io::Result<Option<u32>> {
    imp::owner(canonical(local), canonical(peer))
}

/// The uid that sockets of this process carry: its effective uid (0 where there are no uids).
#[must_use]
pub fn current_uid() -> u32 {
    imp::current_uid()
}

/// How long the kernel may take to answer; after that it is as if netlink were refused. It answers
/// inside the request's own system call, so that this has never been seen to pass.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_millis(250);

/// IPv4 for an IPv4 address in IPv6 clothes.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

#[cfg(not(unix))]
mod imp {
    use std::{io, net::SocketAddr};

    pub(super) fn owner(_local: SocketAddr, _peer: SocketAddr) -> io::Result<Option<u32>> {
        Ok(None)
    }

    pub(super) fn current_uid() -> u32 {
        0
    }
}

#[cfg(all(unix, not(target_os = "linux")))]
mod imp {
    use std::{io, net::SocketAddr};

    pub(super) fn owner(_local: SocketAddr, _peer: SocketAddr) -> io::Result<Option<u32>> {
        Ok(None)
    }

    pub(super) fn current_uid() -> u32 {
        rustix::process::geteuid().as_raw()
    }
}

#[cfg(target_os = "linux")]
mod imp {
    use std::fs::File;
    use std::io::{self, BufRead, BufReader};
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::net::sockopt::{Timeout, set_socket_timeout};
    use rustix::net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send,
        socket_with,
    };

    use super::{PATIENCE, canonical};

    /// Whether the kernel has ever found a socket for us. Until then its "no such entry" may as
    /// well mean that it has no `tcp_diag`, and the table is read to make sure.
    static DIAG_WORKS: AtomicBool = AtomicBool::new(false);

    pub(super) fn owner(local: SocketAddr, peer: SocketAddr) -> io::Result<Option<u32>> {
        match ask_kernel(local, peer) {
            Ok(Some(found)) => {
                DIAG_WORKS.store(true, Ordering::Relaxed);
                Ok(found.owner(local, peer))
            }
            Ok(None) if DIAG_WORKS.load(Ordering::Relaxed) => Ok(None),
            Ok(None) | Err(_) => read_tables(local, peer),
        }
    }

    pub(super) fn current_uid() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    /// What the kernel says of one TCP socket.
    #[derive(Debug, PartialEq)]
    pub(super) struct Found {
        /// The socket's own address.
        pub(super) local: SocketAddr,
        /// Whom it is connected to.
        pub(super) remote: SocketAddr,
        /// Its uid; 0 also for a socket that nobody holds any more.
        pub(super) uid: u32,
        /// Its inode; 0 for a socket that nobody holds any more, or not yet.
        pub(super) inode: u32,
    }

    impl Found {
        /// The uid, if this is the peer's end (and not, say, a listener on its port) and a process
        /// still holds it.
        pub(super) fn owner(&self, local: SocketAddr, peer: SocketAddr) -> Option<u32> {
            (self.is(local, peer) && self.inode != 0).then_some(self.uid)
        }

        fn is(&self, local: SocketAddr, peer: SocketAddr) -> bool {
            let same = |a: SocketAddr, b: SocketAddr| a.ip() == b.ip() && a.port() == b.port();
            same(self.local, peer) && same(self.remote, local)
        }
    }

    // linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h
    const NLMSG_ERROR: u16 = 2;
    const NLM_F_REQUEST: u16 = 1;
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    const IPPROTO_TCP: u8 = 6;
    /// `nlmsghdr` and `inet_diag_req_v2`.
    const REQUEST_BYTES: u32 = 16 + 56;
    /// `nlmsghdr` and `inet_diag_msg`; attributes may follow.
    const REPLY_BYTES: usize = 16 + 72;
    /// Room for the reply and its attributes (124 bytes on Linux 6.18); more is cut off unread.
    const REPLY_ROOM: usize = 1024;
    /// We send one request a socket.
    const SEQ: u32 = 1;

    /// One exact lookup. `None`: the kernel has no such entry (or no `tcp_diag`).
    pub(super) fn ask_kernel(local: SocketAddr, peer: SocketAddr) -> io::Result<Option<Found>> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            Some(netlink::SOCK_DIAG),
        )?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        send(&socket, &request(local, peer), SendFlags::empty())?;
        let mut reply = [0; REPLY_ROOM];
        let (length, _) = recv(&socket, &mut reply, RecvFlags::empty())?;
        read_reply(&reply[..length])
    }

    /// The lookup's request: `id` is seen from the peer, so `peer` is its source.
    fn request(local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(REQUEST_BYTES as usize);
        bytes.extend(REQUEST_BYTES.to_ne_bytes());
        bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        bytes.extend(NLM_F_REQUEST.to_ne_bytes());
        bytes.extend(SEQ.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes()); // port id: the kernel gives us one

        let family = if peer.is_ipv4() { AF_INET } else { AF_INET6 };
        bytes.extend([family, IPPROTO_TCP, 0, 0]); // no extensions, padding
        bytes.extend(u32::MAX.to_ne_bytes()); // states: any
        bytes.extend(peer.port().to_be_bytes());
        bytes.extend(local.port().to_be_bytes());
        bytes.extend(address_bytes(peer.ip()));
        bytes.extend(address_bytes(local.ip()));
        let interface = if let SocketAddr::V6(v6) = peer {
            v6.scope_id()
        } else {
            0
        };
        bytes.extend(interface.to_ne_bytes());
        bytes.extend([0xff; 8]); // no cookie
        bytes
    }

    /// 16 bytes, of which IPv4 uses the first four.
    fn address_bytes(ip: IpAddr) -> [u8; 16] {
        match ip {
            IpAddr::V4(v4) => {
                let [a, b, c, d] = v4.octets();
                [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
            }
            IpAddr::V6(v6) => v6.octets(),
        }
    }

    pub(super) fn read_reply(reply: &[u8]) -> io::Result<Option<Found>> {
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "sock_diag answered nonsense");
        let kind = u16::from_ne_bytes(take(reply, 4).ok_or_else(bad)?);
        if u32::from_ne_bytes(take(reply, 8).ok_or_else(bad)?) != SEQ {
            return Err(bad());
        }
        if kind == NLMSG_ERROR {
            let errno = -i32::from_ne_bytes(take(reply, 16).ok_or_else(bad)?);
            let error = io::Error::from_raw_os_error(errno);
            return match error.kind() {
                io::ErrorKind::NotFound => Ok(None),
                _ => Err(error),
            };
        }
        if kind != SOCK_DIAG_BY_FAMILY || reply.len() < REPLY_BYTES {
            return Err(bad());
        }
        let family = reply[16];
        let end = |port: usize, ip: usize| -> Option<SocketAddr> {
            let port = u16::from_be_bytes(take(reply, port)?);
            let ip = match family {
                AF_INET => IpAddr::from(take::<4>(reply, ip)?),
                AF_INET6 => IpAddr::from(take::<16>(reply, ip)?),
                _ => return None,
            };
            Some(canonical(SocketAddr::new(ip, port)))
        };
        Ok(Some(Found {
            local: end(20, 24).ok_or_else(bad)?,
            remote: end(22, 40).ok_or_else(bad)?,
            uid: u32::from_ne_bytes(take(reply, 80).ok_or_else(bad)?),
            inode: u32::from_ne_bytes(take(reply, 84).ok_or_else(bad)?),
        }))
    }

    fn take<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
        bytes.get(at..at + N)?.try_into().ok()
    }

    /// The slow way: every TCP socket of the machine, a line each. An IPv4 connection may be made
    /// by an IPv6 socket, so that both tables count for it.
    pub(super) fn read_tables(local: SocketAddr, peer: SocketAddr) -> io::Result<Option<u32>> {
        let tables: &[&str] = match peer {
            SocketAddr::V4(_) => &["/proc/net/tcp", "/proc/net/tcp6"],
            SocketAddr::V6(_) => &["/proc/net/tcp6"],
        };
        for table in tables {
            let file = match File::open(table) {
                Ok(file) => file,
                // A kernel without IPv6 has no tcp6.
                Err(error) if error.kind() == io::ErrorKind::NotFound && table.ends_with('6') => {
                    continue;
                }
                Err(error) => return Err(error),
            };
            for line in BufReader::new(file).lines() {
                if let Some(found) = read_line(&line?).filter(|found| found.is(local, peer)) {
                    return Ok(found.owner(local, peer));
                }
            }
        }
        Ok(None)
    }

    /// `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …`
    pub(super) fn read_line(line: &str) -> Option<Found> {
        let mut words = line.split_ascii_whitespace();
        let local = read_address(words.nth(1)?)?;
        let remote = read_address(words.next()?)?;
        let uid = words.nth(4)?.parse().ok()?;
        let inode = words.nth(1)?.parse().ok()?;
        Some(Found {
            local,
            remote,
            uid,
            inode,
        })
    }

    /// `0100007F:A2BC`: the address as 32-bit words of this machine, the port as a number.
    fn read_address(text: &str) -> Option<SocketAddr> {
        let (ip, port) = text.split_once(':')?;
        let mut bytes = Vec::with_capacity(16);
        for at in (0..ip.len()).step_by(8) {
            let word = u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?;
            bytes.extend(word.to_ne_bytes());
        }
        let ip = match bytes.len() {
            4 => IpAddr::V4(Ipv4Addr::from(take::<4>(&bytes, 0)?)),
            16 => IpAddr::V6(Ipv6Addr::from(take::<16>(&bytes, 0)?)),
            _ => return None,
        };
        Some(canonical(SocketAddr::new(
            ip,
            u16::from_str_radix(port, 16).ok()?,
        )))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::{TcpListener, TcpStream};
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A connection, made to `to` of a listener on `on`: the accepted end, and the other.
    fn connection(on: &str, to: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(on).unwrap();
        let port = listener.local_addr().unwrap().port();
        let peer = TcpStream::connect(format!("{to}:{port}")).unwrap();
        (listener.accept().unwrap().0, peer)
    }

    /// What each of the two ways says of the peer of an accepted socket.
    fn both_ways(accepted: &TcpStream) -> [Option<u32>; 2] {
        let (local, peer) = (
            accepted.local_addr().unwrap(),
            accepted.peer_addr().unwrap(),
        );
        let tables = imp::read_tables(canonical(local), canonical(peer)).unwrap();
        [owner(local, peer).unwrap(), tables]
    }

    #[test]
    fn our_own_sockets_are_ours() {
        for (on, to) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("[::1]:0", "[::1]"),
            // The accepted socket is IPv6, its addresses are mapped.
            ("[::]:0", "127.0.0.1"),
            // The peer's socket is IPv6, its addresses are mapped.
            ("127.0.0.1:0", "[::ffff:127.0.0.1]"),
        ] {
            let (accepted, _peer) = connection(on, to);
            assert_eq!(both_ways(&accepted), [Some(current_uid()); 2], "{on} {to}");
        }
    }

    #[test]
    fn the_kernel_is_asked_and_not_the_table() {
        let (accepted, _peer) = connection("127.0.0.1:0", "127.0.0.1");
        let (local, peer) = (
            accepted.local_addr().unwrap(),
            accepted.peer_addr().unwrap(),
        );
        let found = imp::ask_kernel(local, peer).unwrap().expect("an entry");
        assert_eq!((found.local, found.remote), (peer, local));
    }

    #[test]
    fn a_peer_that_has_closed_belongs_to_nobody() {
        let (accepted, peer) = connection("127.0.0.1:0", "127.0.0.1");
        drop(peer);
        assert_eq!(both_ways(&accepted), [None, None]);
    }

    #[test]
    fn a_listener_on_the_peers_address_is_not_the_peer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let nobody = "127.0.0.1:9".parse().unwrap();
        assert_eq!(owner(nobody, listener.local_addr().unwrap()).unwrap(), None);
    }

    #[test]
    fn a_socket_that_does_not_exist_belongs_to_nobody() {
        let [a, b] = ["192.0.2.1:1", "192.0.2.2:2"].map(|text| text.parse().unwrap());
        assert_eq!(owner(a, b).unwrap(), None);
    }

    /// Ends the child however the test ends.
    struct Killed(Child);

    impl Drop for Killed {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Only root can become somebody else; others have nothing to test here.
    #[test]
    fn the_socket_of_another_user_is_theirs() {
        if current_uid() != 0 {
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        // bash opens the socket, after setpriv has changed the uid.
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; echo open; read -r");
        let mut child = Killed(
            Command::new("setpriv")
                .args(["--reuid=65534", "--clear-groups", "bash", "-c", &script])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let (accepted, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(child.0.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "open\n");
        assert_eq!(both_ways(&accepted), [Some(65534); 2]);

        drop(child);
        assert_eq!(both_ways(&accepted), [None, None]);
    }

    #[test]
    fn lines_of_the_table() {
        let found = imp::read_line(
            "   1: 0100007F:A2BC 0100007F:B517 01 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0",
        );
        if cfg!(target_endian = "little") {
            let found = found.unwrap();
            assert_eq!(found.local, "127.0.0.1:41660".parse().unwrap());
            assert_eq!(found.remote, "127.0.0.1:46359".parse().unwrap());
            assert_eq!((found.uid, found.inode), (1000, 4711));
        }
        for line in [
            "",
            "  sl  local_address rem_address   st",
            "1: 01:1 €€€€:2 01",
            "1: A B C",
        ] {
            assert_eq!(imp::read_line(line), None, "{line}");
        }
    }

    #[test]
    fn a_short_or_strange_reply_is_an_error() {
        assert!(imp::read_reply(&[]).is_err());
        assert!(imp::read_reply(&[0; 90]).is_err());
        let mut reply = [0; 90];
        reply[4..6].copy_from_slice(&20_u16.to_ne_bytes());
        reply[8..12].copy_from_slice(&1_u32.to_ne_bytes());
        assert!(imp::read_reply(&reply).is_err(), "family 0");
        reply[16] = 2;
        assert!(imp::read_reply(&reply).is_ok());
        assert!(imp::read_reply(&reply[..80]).is_err());
    }
}
