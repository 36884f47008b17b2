//! One TCP connection to one broker, without a thread and without ever blocking.
//!
//! Requests are answered in their order. An answer is handed out when all of it is here; what the kernel has received meanwhile
//! waits there, which is what makes up for not having a thread.

use std::collections::VecDeque;
use std::io::{Error, ErrorKind, Result};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::wire::{self, Versions};

/// Room for an answer is made for so much at first, and doubled: a size that is only claimed costs no more.
const FIRST_ROOM: usize = 16 << 20;
/// Buffers to use again are at least this large; smaller ones are cheap to make.
pub const WORTH_KEEPING: usize = 128 << 10;
const KEPT_BUFFERS: usize = 4;
const KEPT_BYTES: usize = 16 << 20;

/// Buffers that were used and are free again: fresh pages cost more than what is read into them.
#[derive(Default)]
pub struct Buffers(Vec<Vec<u8>>);

impl Buffers {
    pub fn give(&mut self, mut buffer: Vec<u8>) {
        if self.0.len() < KEPT_BUFFERS && (WORTH_KEEPING..=KEPT_BYTES).contains(&buffer.capacity()) {
            buffer.clear();
            self.0.push(buffer);
        }
    }
    pub fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_default()
    }
}

pub struct Limits {
    pub client: String,
    pub connect_timeout: Duration,
    pub request_timeout: Duration,
    /// The largest answer.
    pub max_answer: usize,
}

/// What was asked, kept until its answer is here.
pub enum Asked<F> {
    Versions,
    Metadata,
    Fetch(F),
}

enum Connecting {
    /// To the first of these; the others are tried if it fails.
    To(VecDeque<SocketAddr>),
    Done,
}

pub struct Connection<F> {
    socket: Socket,
    connecting: Connecting,
    /// Known once the broker has told them.
    pub versions: Option<Versions>,
    unsent: Vec<u8>,
    asked: VecDeque<(i32, Asked<F>)>,
    next_correlation: i32,
    /// Of the answer that is coming: its first four bytes, and then the rest.
    size: Vec<u8>,
    answer: Vec<u8>,
    /// When it was last seen to do something, or had nothing to do.
    alive: Instant,
}

impl<F> Connection<F> {
    /// Begins to connect. Looking the name up is the one thing that may block.
    pub fn open(address: &(String, u16), now: Instant) -> Result<Self> {
        let mut found: VecDeque<SocketAddr> = (address.0.as_str(), address.1).to_socket_addrs()?.collect();
        Ok(Connection {
            socket: begin(&mut found)?,
            connecting: Connecting::To(found),
            versions: None,
            unsent: Vec::new(),
            asked: VecDeque::new(),
            next_correlation: 0,
            size: Vec::with_capacity(4),
            answer: Vec::new(),
            alive: now,
        })
    }

    pub fn descriptor(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Whether it waits to be able to send (else: to receive).
    pub fn is_sending(&self) -> bool {
        matches!(self.connecting, Connecting::To(_)) || !self.unsent.is_empty()
    }

    pub fn asked(&self) -> impl Iterator<Item = &Asked<F>> {
        self.asked.iter().map(|(_, asked)| asked)
    }

    /// How long an answer, or the connection itself, has been waited for.
    pub fn waited(&self, now: Instant) -> Duration {
        if self.asked.is_empty() && matches!(self.connecting, Connecting::Done) {
            return Duration::ZERO;
        }
        now.saturating_duration_since(self.alive)
    }

    /// When waiting is over, if anything is waited for.
    pub fn deadline(&self, limits: &Limits) -> Option<Instant> {
        match self.connecting {
            Connecting::To(_) => Some(self.alive + limits.connect_timeout),
            Connecting::Done if self.asked.is_empty() => None,
            Connecting::Done => Some(self.alive + limits.request_timeout),
        }
    }

    /// Sends what `request` makes of a number and the client's name, as far as it goes at once.
    pub fn ask(
        &mut self,
        limits: &Limits,
        now: Instant,
        asked: Asked<F>,
        request: impl FnOnce(i32, &str) -> Vec<u8>,
    ) -> Result<()> {
        let correlation = self.next_correlation;
        self.next_correlation = correlation.wrapping_add(1);
        if self.asked.is_empty() {
            self.alive = now;
        }
        self.unsent.extend(request(correlation, &limits.client));
        self.asked.push_back((correlation, asked));
        self.flush()
    }

    /// Goes on with connecting, sending and receiving; the next answer that is complete. An error ends the connection.
    pub fn step(
        &mut self,
        limits: &Limits,
        now: Instant,
        buffers: &mut Buffers,
    ) -> Result<Option<(Asked<F>, Vec<u8>)>> {
        if matches!(self.connecting, Connecting::To(_)) && !self.connected(limits, now)? {
            return Ok(None);
        }
        self.flush()?;
        let answer = self.receive(limits, now, buffers)?;
        if answer.is_none() && self.waited(now) > limits.request_timeout {
            let waited = self.waited(now).as_secs_f32();
            return Err(Error::new(ErrorKind::TimedOut, format!("no answer for {waited:.0} s")));
        }
        Ok(answer)
    }

    fn connected(&mut self, limits: &Limits, now: Instant) -> Result<bool> {
        let Connecting::To(others) = &mut self.connecting else { return Ok(true) };
        let failed = match self.socket.take_error()? {
            Some(error) => error,
            None => match self.socket.peer_addr() {
                Ok(_) => {
                    self.connecting = Connecting::Done;
                    self.ask(limits, now, Asked::Versions, wire::versions_request)?;
                    return Ok(true);
                }
                Err(error) if error.kind() != ErrorKind::NotConnected => error,
                Err(_) if now.saturating_duration_since(self.alive) <= limits.connect_timeout => return Ok(false),
                Err(_) => Error::new(ErrorKind::TimedOut, "no connection in time"),
            },
        };
        if others.is_empty() {
            return Err(failed);
        }
        self.socket = begin(others)?;
        self.alive = now;
        Ok(false)
    }

    fn flush(&mut self) -> Result<()> {
        while !self.unsent.is_empty() && matches!(self.connecting, Connecting::Done) {
            match self.socket.send(&self.unsent) {
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn receive(&mut self, limits: &Limits, now: Instant, buffers: &mut Buffers) -> Result<Option<(Asked<F>, Vec<u8>)>> {
        if !receive_up_to(&self.socket, &mut self.size, 4, &mut self.alive, now)? {
            return Ok(None);
        }
        let size = be_size(&self.size);
        if size < 4 || size > limits.max_answer {
            let why = format!("an answer of {size} bytes, where `receive.message.max.bytes` is {}", limits.max_answer);
            return Err(Error::new(ErrorKind::InvalidData, why));
        }
        if self.answer.capacity() == 0 {
            self.answer = buffers.take();
        }
        while self.answer.len() < size {
            let most = size.min(FIRST_ROOM.max(2 * self.answer.len()));
            if !receive_up_to(&self.socket, &mut self.answer, most, &mut self.alive, now)? {
                return Ok(None);
            }
        }
        self.size.clear();
        let answer = std::mem::take(&mut self.answer);
        let number = wire::correlation(&answer).ok();
        match self.asked.pop_front() {
            Some((correlation, asked)) if number == Some(correlation) => Ok(Some((asked, answer))),
            _ => Err(Error::new(ErrorKind::InvalidData, "an answer to what was not asked")),
        }
    }
}

fn be_size(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |size, &byte| size << 8 | usize::from(byte))
}

/// Fills `to` up to `size` bytes with what is there; whether it is full.
fn receive_up_to(socket: &Socket, to: &mut Vec<u8>, size: usize, alive: &mut Instant, now: Instant) -> Result<bool> {
    to.reserve_exact(size.saturating_sub(to.len()));
    while to.len() < size {
        let missing = size - to.len();
        match socket.recv(&mut to.spare_capacity_mut()[..missing]) {
            Ok(0) => return Err(Error::new(ErrorKind::UnexpectedEof, "the broker closed the connection")),
            // SAFETY: `recv` has written so many bytes behind the length, within the capacity.
            Ok(got) => unsafe { to.set_len(to.len() + got) },
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        *alive = now;
    }
    Ok(true)
}

/// A socket on its way to the first address that can be tried.
fn begin(addresses: &mut VecDeque<SocketAddr>) -> Result<Socket> {
    let mut failed = Error::new(ErrorKind::NotFound, "the host has no address");
    while let Some(address) = addresses.pop_front() {
        match try_begin(address) {
            Ok(socket) => return Ok(socket),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn try_begin(address: SocketAddr) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}
