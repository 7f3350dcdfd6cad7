//! An HTTP proxy that knows `CONNECT` alone.
use anyhow::Context;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// What a proxy was asked for, `HOST:PORT` each.
#[derive(Clone, Default)]
pub struct Asked(Arc<Mutex<Vec<String>>>);

impl Asked {
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub(crate) struct Proxy {
    pub address: SocketAddr,
    pub asked: Asked,
}

impl Proxy {
    /// Serves at this address, on a port of its own, until the test ends.
    pub fn start(host: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((host, 0))?;
        let (address, asked) = (listener.local_addr()?, Asked::default());
        let noted = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let noted = noted.clone();
                std::thread::spawn(move || serve(stream, &noted));
            }
        });
        Ok(Self { address, asked })
    }
}

fn serve(mut stream: TcpStream, asked: &Asked) -> anyhow::Result<()> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte)? == 1 {
        head.push(byte[0]);
    }
    let head = String::from_utf8(head)?;
    let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).context("no CONNECT")?;
    asked.0.lock().unwrap_or_else(PoisonError::into_inner).push(target.to_owned());
    let Ok(mut there) = TcpStream::connect(target) else {
        return Ok(stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")?);
    };
    stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    let (mut from, mut to) = (stream.try_clone()?, there.try_clone()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    std::io::copy(&mut there, &mut stream)?;
    Ok(stream.shutdown(Shutdown::Both)?)
}
