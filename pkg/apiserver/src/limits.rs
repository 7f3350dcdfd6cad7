//! Bounds of the front: what one client, or all together, may take.
use std::time::Duration;

/// Open TCP connections; past it new ones wait in the kernel's queue.
pub const CONNECTIONS: usize = 10_000;

/// Reading requests served at once, upstream's `--max-requests-inflight`.
pub const READING_IN_FLIGHT: usize = 400;

/// Changing requests served at once, upstream's `--max-mutating-requests-inflight`.
pub const MUTATING_IN_FLIGHT: usize = 200;

/// How long a request waits for its turn before it is told to come back later.
pub const IN_FLIGHT_WAIT: Duration = Duration::from_secs(5);

/// Requests that wait for their turn, of either sort; past it they are refused at once.
pub const IN_FLIGHT_WAITING: usize = 2_000;

/// What `Retry-After` says to whom was refused, in seconds.
pub const RETRY_AFTER_SECONDS: u32 = 1;

/// A request's body, as upstream's `MaxRequestBodyBytes`.
pub const BODY_BYTES: usize = 3 * 1024 * 1024;

/// All headers of a request together; Go's default is the same.
pub const HEADER_BYTES: usize = 1024 * 1024;

/// Requests at once on one HTTP/2 connection, as upstream.
pub const STREAMS_A_CONNECTION: u32 = 250;

/// From accepting a connection to the end of its TLS handshake.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// Time for a client that was refused in the handshake to read why.
pub const LINGER: Duration = Duration::from_secs(1);

/// From a connection's first byte (or the end of the last request) to the end of a request's headers.
pub const HEADERS: Duration = Duration::from_secs(90);

/// What a request that is not long-running may take, upstream's `--request-timeout`.
pub const REQUEST: Duration = Duration::from_secs(60);

/// Silence after which an HTTP/2 peer is asked whether it is there, and how long it has to answer.
pub const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// How long requests under way may take to end once the server shuts down.
pub const DRAIN: Duration = Duration::from_secs(10);

/// Answers smaller than this are not worth compressing, as upstream.
pub const COMPRESS_FROM_BYTES: usize = 128 * 1024;
