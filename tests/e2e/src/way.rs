//! One address for two servers, as a load balancer gives.
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// How long a dead server is waited for.
const DIAL: Duration = Duration::from_secs(1);
/// How often a server is asked whether it is there, and how often in a row it may fail to answer.
const ASK: Duration = Duration::from_secs(2);
const SILENT: u32 = 3;

/// A connection goes to the server that was last reached, else to the other.
struct Way {
    servers: [SocketAddr; 2],
    at: AtomicUsize,
}

/// Where the two are reached from now on, until the runtime ends.
///
/// # Errors
/// There is no port left.
pub async fn open(servers: [SocketAddr; 2]) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let way = Arc::new(Way { servers, at: AtomicUsize::new(0) });
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let way = way.clone();
            tokio::spawn(async move { way.lead(client).await });
        }
    });
    Ok(address)
}

impl Way {
    /// Until one of both ends, or the server is gone without a word.
    async fn lead(&self, mut client: TcpStream) {
        let Some((mut server, address)) = self.dial().await else { return };
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
            () = lost(address) => {}
        }
    }

    async fn dial(&self) -> Option<(TcpStream, SocketAddr)> {
        let last = self.at.load(Ordering::SeqCst);
        for at in [last, 1 - last] {
            if let Some(stream) = dial(self.servers[at]).await {
                self.at.store(at, Ordering::SeqCst);
                return Some((stream, self.servers[at]));
            }
        }
        None
    }
}

async fn dial(server: SocketAddr) -> Option<TcpStream> {
    tokio::time::timeout(DIAL, TcpStream::connect(server)).await.ok()?.ok()
}

/// Returns when a server has not answered for a while.
async fn lost(server: SocketAddr) {
    let mut silent = 0;
    while silent < SILENT {
        tokio::time::sleep(ASK).await;
        silent = if dial(server).await.is_some() { 0 } else { silent + 1 };
    }
}
