//! Times exact search: `search_speed QUERIES.npy POOL.npy K IDS_OUT.npy [--threads N] [--first-pass bytes|products]`.
//!
//! In: two `[n, dim]` arrays of little-endian f32, as NumPy saves them. Out: the rows of the best `K` of each query as `[n, K]` u32, and one
//! line of JSON with the seconds that the search took, reading and writing not counted.

use std::error::Error;
use std::fs::{self, File};
use std::io::Read;
use std::time::Instant;

use embertune::embed::Vectors;
use embertune::progress::Silent;
use embertune::search::exact::{FirstPass, top_k_by};

const USAGE: &str =
    "usage: search_speed QUERIES.npy POOL.npy K IDS_OUT.npy [--threads N] [--first-pass bytes|products]";

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [queries, pool, k, out, options @ ..] = args.as_slice() else { return Err(USAGE.into()) };
    let (mut n_threads, mut first_pass) = (0, FirstPass::fastest());
    for option in options.chunks(2) {
        match option {
            [flag, n] if flag == "--threads" => n_threads = n.parse()?,
            [flag, name] if flag == "--first-pass" && name == "products" => first_pass = FirstPass::Products,
            [flag, name] if flag == "--first-pass" && name == "bytes" && matches!(first_pass, FirstPass::Bytes(_)) => {}
            _ => return Err(format!("`{}` is unknown, or not for this machine; {USAGE}", option.join(" ")).into()),
        }
    }
    let (queries, pool, k) = (read(queries)?, read(pool)?, k.parse::<usize>()?);
    if queries.dim != pool.dim {
        return Err(format!("queries have {} elements, the pool has {}", queries.dim, pool.dim).into());
    }
    let threads = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build()?;
    let start = Instant::now();
    let found = threads.install(|| top_k_by(first_pass, &queries, &pool, k, &Silent));
    let seconds = start.elapsed().as_secs_f64();
    let ids: Vec<u8> = found.iter().flatten().flat_map(|hit| hit.row.to_le_bytes()).collect();
    fs::write(out, [header(found.len(), k.min(pool.n_rows())), ids].concat())?;
    let (n_queries, n_pool, dim, n_threads) =
        (queries.n_rows(), pool.n_rows(), pool.dim, threads.current_num_threads());
    println!(
        "{{\"seconds\": {seconds:.4}, \"queries\": {n_queries}, \"pool\": {n_pool}, \"dim\": {dim}, \"k\": {k}, \
         \"threads\": {n_threads}}}"
    );
    Ok(())
}

/// Reads version 1.0 of NumPy's format, in parts: a million vectors need no second copy.
fn read(path: &str) -> Result<Vectors, Box<dyn Error>> {
    let problem = || format!("`{path}` is no NumPy array [n, dim] of little-endian f32 in C order");
    let mut file = File::open(path)?;
    let mut prefix = [0; 10];
    file.read_exact(&mut prefix)?;
    let mut header = vec![0; usize::from(u16::from_le_bytes([prefix[8], prefix[9]]))];
    file.read_exact(&mut header)?;
    let header = String::from_utf8_lossy(&header);
    let shape = header.split_once('(').and_then(|(_, rest)| rest.split_once(')')).ok_or_else(problem)?.0;
    let sizes: Vec<usize> = shape.split(',').filter_map(|size| size.trim().parse().ok()).collect();
    let [n, dim] = sizes[..] else { return Err(problem().into()) };
    if !header.contains("'<f4'") || !header.contains("False") {
        return Err(problem().into());
    }
    let mut values = Vec::with_capacity(n * dim);
    let mut part = vec![0; 1 << 20];
    while values.len() < n * dim {
        let n_bytes = part.len().min((n * dim - values.len()) * 4);
        file.read_exact(&mut part[..n_bytes])?;
        values.extend(part[..n_bytes].as_chunks::<4>().0.iter().map(|&four| f32::from_le_bytes(four)));
    }
    Ok(Vectors::new(values, dim))
}

/// Header of an array `[n, k]` of u32; the data begin at a multiple of 64.
fn header(n: usize, k: usize) -> Vec<u8> {
    let dict = format!("{{'descr': '<u4', 'fortran_order': False, 'shape': ({n}, {k}), }}");
    let dict = format!("{dict:<117}\n");
    [b"\x93NUMPY\x01\x00".as_slice(), &(dict.len() as u16).to_le_bytes(), dict.as_bytes()].concat()
}
