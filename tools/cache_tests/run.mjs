// Runs the suite in SUITE against BASE, with the bearer $BEARER if there is one, and judges its results and the
// published columns by the suite's own rules; the report goes to $REPORT. Usage: node run.mjs SUITE BASE [TEST]
import fs from 'fs'
import path from 'path'
import process from 'process'
import { createRequire } from 'module'
import { pathToFileURL } from 'url'

const [suite, base, only] = process.argv.slice(2)
const isSource = fs.existsSync(path.join(suite, 'test-engine')) // the npm package is older, and has another layout
const engine = isSource ? 'test-engine' : '.'
const STRIDE = 97 // prime, so every test comes once
const load = name => import(pathToFileURL(path.join(suite, name)))
const send = isSource ? globalThis.fetch : createRequire(path.join(suite, 'package.json'))('node-fetch')

const { runTests, getResults } = await load(`${engine}/client/runner.mjs`)
const { default: groups } = await load('tests/index.mjs')
const { default: columns } = await load('results/index.mjs')
if (!isSource) {
  const { default: surrogate } = await load('tests/surrogate-control.mjs')
  if (!groups.includes(surrogate)) groups.push(surrogate)
}

function judge (test, results, byId) {
  const result = results[test.id]
  if (result === undefined) return 'untested'
  for (const id of test.depends_on || []) {
    if (!['pass', 'yes'].includes(judge(byId[id], results, byId))) return 'dependency'
  }
  if (result[0] === 'Setup') return result[1] === 'retry' ? 'retry' : 'setup'
  if (test.kind === 'check') return result === true ? 'yes' : 'no'
  if (result === true) return 'pass'
  return test.kind === 'optimal' ? 'not optimal' : 'fail'
}

function fetch (url, options = {}) {
  if (process.env.BEARER) {
    const others = (options.headers || []).filter(([name]) => name.toLowerCase() !== 'authorization')
    options = { ...options, headers: [...others, ['Authorization', `Bearer ${process.env.BEARER}`]] }
  }
  return send(url, options)
}

// In an order of our own: the suite has tests whose origin fails stand side by side, and runs a hundred at once, so a
// gateway's circuit breaker would see many failures in a row, and open.
const all = groups.flatMap(group => group.tests).filter(test => !only || test.id === only)
const spread = all.map((_, index) => all[(index * STRIDE) % all.length])
if (only) all.forEach(test => { test.dump = true })
globalThis.fetch = fetch // which the source calls; the package's runner is given one
await runTests([{ tests: spread }], ...(isSource ? [] : [fetch]), false, base, 60)

const ours = getResults()
const byId = Object.fromEntries(groups.flatMap(group => group.tests).map(test => [test.id, test]))
const published = columns
  .filter(({ name }) => ['nginx', 'Varnish'].includes(name))
  .map(({ name, file, version }) => {
    const results = JSON.parse(fs.readFileSync(path.join(suite, 'results', file), 'utf8'))
    return { name, version, results }
  })
const report = { suite: JSON.parse(fs.readFileSync(path.join(suite, 'package.json'), 'utf8')).version, tests: [] }
report.columns = published.map(({ name, version }) => `${name} ${version.split('-')[0]}`)
for (const group of groups) {
  for (const test of group.tests) {
    if (test.browser_only || (only && test.id !== only)) continue
    report.tests.push({
      id: test.id,
      group: group.name,
      name: test.name,
      kind: test.kind || 'required',
      ours: judge(test, ours, byId),
      detail: Array.isArray(ours[test.id]) ? String(ours[test.id][1]) : '',
      others: published.map(({ results }) => judge(test, results, byId))
    })
  }
}
fs.writeFileSync(process.env.REPORT, JSON.stringify(report))
