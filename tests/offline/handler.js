'use strict'
// Tells the event it got, or gives the answer that `?answer=` holds in base64.
exports.mirror = async event => {
  const query = event.queryStringParameters || {}
  if (query.fail) throw new Error('boom')
  if (query.answer) return JSON.parse(Buffer.from(query.answer, 'base64').toString())
  return { statusCode: 200, headers: { 'content-type': 'application/json' }, cookies: [], body: JSON.stringify(event) }
}
