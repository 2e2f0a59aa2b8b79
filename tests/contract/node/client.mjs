// What the official openai package for Node makes of a service. Each step prints one line of JSON: its name and what came
// of it, or the error that was thrown; the tests in Python say what it should have been.
import { createHash } from 'node:crypto';
import { createReadStream, readFileSync } from 'node:fs';
import http from 'node:http';
import OpenAI, { toFile } from 'openai';

const { url, limited, key, picture, secret, prompt } = JSON.parse(process.argv[2]);
const client = new OpenAI({ apiKey: 'anything', baseURL: `${url}/v1`, maxRetries: 0, webhookSecret: secret });
const short = { prompt, seed: 3, num_inference_steps: 2, spritesheet: false };
const dataUrl = `data:image/png;base64,${readFileSync(picture).toString('base64')}`;

async function step(name, work) {
  const line = { step: name };
  try {
    line.value = await work();
  } catch (error) {
    const { status, code, param, message } = error;
    const headers = error.headers ? Object.fromEntries(error.headers) : null;
    line.error = { kind: error.constructor.name, status, code, param, message, headers };
  }
  console.log(JSON.stringify(line));
  return line.value;
}

async function finished(id) {
  for (;;) {
    const { data, response } = await client.videos.retrieve(id).withResponse();
    if (data.status === 'completed' || data.status === 'failed') return data;
    await new Promise((resolve) => setTimeout(resolve, Number(response.headers.get('openai-poll-after-ms'))));
  }
}

async function content(id, variant) {
  const response = await client.videos.downloadContent(id, variant && { variant });
  const bytes = Buffer.from(await response.arrayBuffer());
  return {
    type: response.headers.get('content-type'), bytes: bytes.length, begins: bytes.toString('latin1', 0, 12),
    sha256: createHash('sha256').update(bytes).digest('hex'),
  };
}

async function upload() {
  const bytes = readFileSync(picture);
  const begun = await client.post('/uploads', { body: { bytes: bytes.length, mime_type: 'image/png' } });
  const sent = await fetch(begun.url, { method: begun.method, headers: begun.headers, body: bytes });
  return { id: begun.id, status: sent.status };
}

// A create is a form, whatever is in it; a remix is JSON.
const made = await step('create', () => client.videos.create({ ...short, model: 'ltx-tiny', size: '64x64', seconds: '1' }));
await step('retrieve', () => finished(made.id));
await step('content', () => content(made.id));
await step('thumbnail', () => content(made.id, 'thumbnail'));
await step('spritesheet', () => content(made.id, 'spritesheet'));

const { id: fileId } = await step('upload', upload);
const references = {
  stream: () => createReadStream(picture),
  file: () => toFile(readFileSync(picture), 'first.png', { type: 'image/png' }),
  image_url: () => ({ image_url: dataUrl }),
  file_id: () => ({ file_id: fileId }),
  list: () => [{ file_id: fileId }],
};
for (const [name, reference] of Object.entries(references)) {
  await step(`create from ${name}`, async () => {
    const { id } = await client.videos.create({ ...short, input_reference: await reference() });
    return { ...(await finished(id)), content: await content(id) };
  });
}
await step('create from two', async () => {
  const file = await references.file();
  return client.videos.create({ ...short, input_reference: [file, file] });
});
await step('create from both', () => client.videos.create({ ...short, input_reference: { image_url: dataUrl, file_id: fileId } }));
await step('create from nothing', () => client.videos.create({ ...short, input_reference: {} }));
await step('create from extra_body', () => client.videos.create({ prompt, extra_body: { ...short, prompt: undefined, seed: 9 } }));

await step('remix', async () => finished((await client.videos.remix(made.id, { prompt })).id));
await step('remix from image_url', async () => {
  const { id } = await client.videos.remix(made.id, { prompt, input_reference: { image_url: dataUrl } });
  return { ...(await finished(id)), content: await content(id) };
});

await step('list', async () => {
  const ids = [];
  for await (const video of client.videos.list({ limit: 2 })) {
    ids.push(video.id);
    if (ids.length === 5) break;
  }
  return ids;
});
await step('list of one page', async () => {
  const page = await client.videos.list({ limit: 1, order: 'asc' });
  return { data: page.data.length, has_more: page.has_more, last_id: page.last_id, first: page.data[0].id };
});
await step('delete', () => client.videos.delete(made.id));
await step('retrieve what was deleted', () => client.videos.retrieve(made.id));
await step('unknown model', () => client.videos.create({ prompt, model: 'sora-2' }));
await step('unknown field', () => client.videos.create({ prompt, quality: 'high' }));
await step('not offered', () => client.videos.edit({ prompt, video: { id: made.id } }));

await step('webhook', async () => {
  const received = new Promise((resolve) => {
    const server = http.createServer((request, response) => {
      const chunks = [];
      request.on('data', (chunk) => chunks.push(chunk));
      request.on('end', () => {
        response.writeHead(204).end();
        server.close();
        resolve({ body: Buffer.concat(chunks).toString(), headers: request.headers });
      });
    });
    server.listen(0, '127.0.0.1', () => {
      const webhook_url = `http://127.0.0.1:${server.address().port}/hook`;
      client.videos.create({ ...short, webhook_url }).catch((error) => resolve(Promise.reject(error)));
    });
  });
  const { body, headers } = await received;
  const event = await client.webhooks.unwrap(body, headers);
  const changed = await client.webhooks.unwrap(body.replace('completed', 'succeeded'), headers).catch((e) => e.constructor.name);
  const other = `whsec_${Buffer.from('another secret of 24 bytes').toString('base64')}`;
  const wrong = await client.webhooks.unwrap(body, headers, other).catch((e) => e.constructor.name);
  return { event, changed, wrong };
});

const stranger = new OpenAI({ apiKey: 'unknown', baseURL: `${limited}/v1`, maxRetries: 0 });
await step('unknown key', () => stranger.videos.create({ prompt }));
const customer = new OpenAI({ apiKey: key, baseURL: `${limited}/v1`, maxRetries: 0 });
await step('within the limit', () => customer.videos.create({ prompt }));
await step('over the limit', () => customer.videos.create({ prompt }));
