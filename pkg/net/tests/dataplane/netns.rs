//! Network namespaces without names: they vanish with the process, whatever happens.
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Nothing here is farther than a link of the same machine.
const TIMEOUT: Duration = Duration::from_millis(400);

/// Moves this thread into a new network namespace; threads and processes that it starts are in it too.
pub fn enter_new() -> Netns {
    // SAFETY: a new network namespace closes no descriptor and touches no memory.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("unshare");
    let file = File::open("/proc/thread-self/ns/net").expect("namespace");
    Netns(Arc::new(file))
}

#[derive(Clone)]
pub struct Netns(Arc<File>);

impl Netns {
    pub fn new() -> Self {
        std::thread::spawn(enter_new).join().expect("namespace")
    }

    /// For programs that want a path.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Runs `f` on a thread inside.
    pub fn run<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(f).join().expect("it does not panic")
    }

    /// The same, without waiting.
    pub fn spawn<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
        let file = self.0.clone();
        std::thread::spawn(move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
            f()
        })
    }

    /// Answers TCP connections with `name` and the client's address, for ever.
    pub fn serve_tcp(&self, name: &'static str, port: u16) {
        let listener = self.run(move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bind"));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("stream");
                let client = stream.peer_addr().expect("address").ip();
                let _ = stream.write_all(format!("{name} {client}").as_bytes());
            }
        });
    }

    /// Sends back what it hears over TCP, for ever.
    pub fn echo_tcp(&self, port: u16) {
        let listener = self.run(move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bind"));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.expect("stream");
                std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
            }
        });
    }

    /// An open connection, which stays in this namespace.
    pub fn connect(&self, to: &str) -> TcpStream {
        let to: SocketAddr = to.parse().expect("address");
        let stream = self.run(move || TcpStream::connect_timeout(&to, TIMEOUT).expect("connect"));
        stream.set_read_timeout(Some(TIMEOUT)).expect("timeout");
        stream
    }

    /// Answers UDP packets with `name`, for ever.
    pub fn serve_udp(&self, name: &'static str, port: u16) {
        let socket = self.run(move || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bind"));
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, client)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(name.as_bytes(), client);
            }
        });
    }

    /// What a TCP server says.
    pub fn tcp(&self, to: &str) -> Result<String, String> {
        let to: SocketAddr = to.parse().expect("address");
        self.run(move || {
            let mut stream = TcpStream::connect_timeout(&to, TIMEOUT).map_err(|error| error.kind().to_string())?;
            stream.set_read_timeout(Some(TIMEOUT)).expect("timeout");
            let mut said = String::new();
            stream.read_to_string(&mut said).map_err(|error| error.kind().to_string())?;
            Ok(said)
        })
    }

    /// What a UDP server says to `packet`.
    pub fn udp(&self, to: SocketAddrV4, packet: Vec<u8>) -> Option<Vec<u8>> {
        self.run(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
            socket.set_read_timeout(Some(TIMEOUT)).expect("timeout");
            socket.connect(to).ok()?;
            socket.send(&packet).ok()?;
            let mut buffer = vec![0; 4096];
            let length = socket.recv(&mut buffer).ok()?;
            buffer.truncate(length);
            Some(buffer)
        })
    }

    /// Sets one of the kernel's settings below `/proc/sys/net`.
    pub fn set(&self, setting: &str, value: &'static str) {
        let file = format!("/proc/sys/net/{setting}");
        self.run(move || std::fs::write(file, value).expect("set"));
    }

    /// Runs a program inside; it must succeed.
    pub fn command(&self, line: &str) -> String {
        let line = line.to_owned();
        self.run(move || {
            let mut words = line.split_whitespace();
            let output =
                Command::new(words.next().expect("program")).args(words).stdin(Stdio::null()).output().expect("run");
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
    }
}
